/** Capsules for tests: small ones with pages that tell what they are, and bytes changed so that their digest fits. */
import { PageSize, pageSizes, toCommitSeq, toPageNumber, toTxnId, TxnEpoch } from "@tidemark/core/Scalars"
import { blake3 } from "@tidemark/platform/Checksum"
import fc from "fast-check"
import { type CapsuleContent, capsuleDigestBytes, encode, type EncodedCapsule } from "../../src/CapsuleFormat.ts"

/** A size out of a property of numbers. */
export const pageSizeOf = (bytes: number) => PageSize.make(pageSizes.find((size) => size === bytes) ?? 512)

export const contentOf = (options: {
  readonly pages?: ReadonlyArray<number>
  readonly pageSize?: number
  readonly databasePages?: number
  readonly id?: bigint
  readonly epoch?: number
  readonly beginSeq?: bigint
} = {}): CapsuleContent => {
  const pages = options.pages ?? [2, 5]
  return {
    token: { id: toTxnId(options.id ?? 7n), epoch: TxnEpoch.make(options.epoch ?? 3) },
    beginSeq: toCommitSeq(options.beginSeq ?? 41n),
    databasePages: options.databasePages ?? (pages.at(-1) ?? 0) + 1,
    pageSize: pageSizeOf(options.pageSize ?? 512),
    pages: pages.map(toPageNumber)
  }
}

/** The image of a page in a transaction: no two of them are equal. */
export const imageOf = ({ pageSize, token }: CapsuleContent, page: number): Uint8Array =>
  Uint8Array.from({ length: pageSize }, (_, index) => index * 7 + page * 13 + Number(token.id % 251n) * 3)

export const encoded = (content: CapsuleContent): EncodedCapsule => encode(content, (page) => imageOf(content, page))

/** A capsule of a transaction, with these pages of 512 bytes. */
export const capsuleOf = (id: bigint, pages: ReadonlyArray<number> = [2, 5]): EncodedCapsule =>
  encoded(contentOf({ id, pages }))

/** Puts the digest at the end of the bytes that fits what stands before it. */
export const digested = (bytes: Uint8Array): Uint8Array => {
  const at = bytes.length - capsuleDigestBytes
  bytes.set(blake3(bytes.subarray(0, at)), at)
  return bytes
}

/** A copy with something changed and a digest that fits. */
export const changed = (bytes: Uint8Array, change: (view: DataView) => void): Uint8Array => {
  const copy = bytes.slice()
  change(new DataView(copy.buffer))
  return digested(copy)
}

const u64 = (maximum: bigint) => fc.bigInt(0n, maximum)

export const anyContent: fc.Arbitrary<CapsuleContent> = fc.record({
  id: fc.bigInt(1n, 2n ** 62n - 1n),
  epoch: fc.nat(0xffffffff),
  beginSeq: u64(2n ** 64n - 2n),
  pages: fc.uniqueArray(fc.integer({ min: 1, max: 0xfffffffe }), { maxLength: 6 }),
  above: fc.nat(0xffffffff),
  pageSize: fc.constantFrom(512, 512, 1024, 4096, 65_536)
}).map(({ above, pages, ...rest }) => {
  const sorted = pages.toSorted((a, b) => a - b)
  return contentOf({ ...rest, pages: sorted, databasePages: Math.max(above, sorted.at(-1) ?? 0) })
})
