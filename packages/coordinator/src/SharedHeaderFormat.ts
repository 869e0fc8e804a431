/**
 * The shared-memory header (section 7 of `formats.md`): 216 bytes, little-endian, followed by the regions of the
 * transaction slots. What all processes of a database see of each other.
 *
 * **Details**
 *
 * 1. The immutable fields (magic, version, page size, slots, the places of the regions) are written before the file has
 *    its name and never again. The checksum covers them and nothing else (SHM-03).
 * 2. Every other field is one 64-bit word at a multiple of 8, or a half of one, and is changed by atomic operations on
 *    that word only, never by {@link encode}: that one is for memory which nobody else sees yet.
 * 3. Nothing in here is durable. The log decides, and whoever becomes the publisher makes the header say so (RC-17).
 *
 * Two values say "not known yet", in a header that was made by somebody who does not know the log: an odd snapshot
 * sequence (no snapshot can be taken) and a next transaction id of 0 (no id can be given). The first publisher sets
 * both.
 *
 * @since 0.1.0
 */
import { FormatIssue, toCodec } from "@tidemark/core/BinaryFormat"
import { invariant } from "@tidemark/core/Invariant"
import { CommitSeq, PageSize, pageSizes, SchemaEpoch, toCommitSeq } from "@tidemark/core/Scalars"
import { xxh3 } from "@tidemark/platform/Checksum"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import type { ShmRefusal } from "./SharedHeaderErrors.ts"
import {
  ShmBadMagic,
  ShmChecksumMismatch,
  ShmInvalidPageSize,
  ShmLayoutMismatch,
  ShmTooSmall,
  ShmVersionMismatch
} from "./SharedHeaderErrors.ts"

/**
 * Bytes of the header, without the regions behind it.
 *
 * @category constants
 * @since 0.1.0
 */
export const sharedHeaderBytes = 216

/**
 * The first eight bytes, read as a little-endian u64: `FSQLSHM` and a NUL.
 *
 * @category constants
 * @since 0.1.0
 */
export const magic = 0x004d4853_4c515346n

/**
 * The same while a creator is still filling the header: `FSQLINI` and a NUL.
 *
 * @category constants
 * @since 0.1.0
 */
export const initializingMagic = 0x00494e49_4c515346n

const version = 1

/**
 * Where each field lies. All but `version`, `pageSize`, `slots` and `zero` are 64-bit words at multiples of 8.
 *
 * @category constants
 * @since 0.1.0
 */
export const offsets = {
  magic: 0,
  version: 8,
  pageSize: 12,
  slots: 16,
  zero: 20,
  nextTxnId: 24,
  snapshotSequence: 32,
  commitSeq: 40,
  schemaEpoch: 48,
  ecsEpoch: 56,
  gcHorizon: 64,
  writerTxnId: 72,
  /** Pid in the low half, generation in the high one: {@link toWriterWord}. */
  writerOwner: 80,
  writerBirth: 88,
  writerLeaseExpiry: 96,
  lockTable: 104,
  witness: 112,
  transactionSlots: 120,
  committedReaders: 128,
  committedReadersBytes: 136,
  checksum: 144,
  nextCommitSeq: 152,
  /** Pid, generation, initializing: {@link toPublisherWord}. */
  publisherOwner: 160,
  publisherBirth: 168,
  padding: 176
} as const

/**
 * Slots of a header that was asked for without a number, or with 0.
 *
 * @category constants
 * @since 0.1.0
 */
export const defaultSlots = 128

/**
 * The most slots that a header is made with: all of them are looked at to find the GC horizon. 65,536 of them take
 * 21 MB of memory.
 *
 * @category constants
 * @since 0.1.0
 */
export const maxSlots = 65_536

/**
 * The last transaction id, 2^62 - 1. A next transaction id above it says that all are used up.
 *
 * @category constants
 * @since 0.1.0
 */
export const maxTxnId = 2n ** 62n - 1n

/**
 * Bytes of a slot in the lock table, in the witness region and in the transaction slots.
 *
 * @category constants
 * @since 0.1.0
 */
export const slotBytes = { lockTable: 64, witness: 128, transaction: 128 } as const

/**
 * Mapped memory comes in multiples of this, 64 KiB.
 *
 * @category constants
 * @since 0.1.0
 */
export const mappingUnitBytes = 65_536

/**
 * The file that holds the header of a database. Beside the database and not in its side directory, as FrankenSQLite
 * has it.
 *
 * @category names
 * @since 0.1.0
 */
export const sharedHeaderPath = (database: string): string => `${database}.fsqlite-shm`

/**
 * Where the regions behind the header begin, for a number of slots. `end` is the first byte behind the last one.
 *
 * @category models
 * @since 0.1.0
 */
export interface HeaderRegions {
  readonly lockTable: number
  readonly witness: number
  readonly transactionSlots: number
  readonly committedReaders: number
  readonly committedReadersBytes: number
  readonly end: number
}

/**
 * The places of the regions: one behind the other, from byte 216 on.
 *
 * @category layout
 * @since 0.1.0
 */
export const regionsOf = (slots: number): HeaderRegions => {
  invariant(Number.isInteger(slots) && slots >= 1 && slots <= 0xffffffff, "slots are counted in a u32, from 1 on")
  const lockTable = sharedHeaderBytes
  const witness = lockTable + slots * slotBytes.lockTable
  const transactionSlots = witness + slots * slotBytes.witness
  const committedReaders = transactionSlots + slots * slotBytes.transaction
  const committedReadersBytes = Math.ceil(slots / 8)
  return {
    lockTable,
    witness,
    transactionSlots,
    committedReaders,
    committedReadersBytes,
    end: committedReaders + committedReadersBytes
  }
}

/**
 * Bytes of a header that can be mapped: with its regions, rounded up to a multiple of 64 KiB. 128 slots: 65,536.
 *
 * @category layout
 * @since 0.1.0
 */
export const mappedBytes = (slots: number): number =>
  Math.ceil(regionsOf(slots).end / mappingUnitBytes) * mappingUnitBytes

const U32 = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 0xffffffff }))
const U31 = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 0x7fffffff }))
const U64 = Schema.BigInt.check(Schema.isBetweenBigInt({ minimum: 0n, maximum: 2n ** 64n - 1n }))

/**
 * What a header says. The places of the regions are not in it: they follow from `slots`.
 *
 * @category models
 * @since 0.1.0
 */
export const SharedHeaderContents = Schema.Struct({
  pageSize: Schema.toType(PageSize),
  slots: Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 0xffffffff })),
  /** The id that the next transaction gets; 0 when nobody has said yet above which id it has to be. */
  nextTxnId: U64,
  /** The seqlock: even when the three below belong together. */
  snapshotSequence: U64,
  /** The published durable high-water mark. */
  commitSeq: Schema.toType(CommitSeq),
  schemaEpoch: Schema.toType(SchemaEpoch),
  ecsEpoch: U64,
  gcHorizon: Schema.toType(CommitSeq),
  /** Transaction id of the serialized writer, 0 when there is none. */
  writerTxnId: U64,
  writerPid: U32,
  writerGeneration: U32,
  writerBirth: U64,
  /** 0 when no lease is set. */
  writerLeaseExpiryUnixSeconds: U64,
  nextCommitSeq: Schema.toType(CommitSeq),
  /** Who publishes, 0 when nobody does. For messages: the kernel lock decides. */
  publisherPid: U32,
  publisherGeneration: U31,
  /** The publisher is still making the header say what the log says. */
  publisherIsInitializing: Schema.Boolean,
  publisherBirth: U64
})
export type SharedHeaderContents = typeof SharedHeaderContents.Type

/**
 * The contents of a new header for a database without a commit.
 *
 * @category constructors
 * @since 0.1.0
 */
export const freshHeader = (options: {
  readonly pageSize: PageSize
  /** 0 or none: {@link defaultSlots}; at most {@link maxSlots}. */
  readonly slots?: number | undefined
}): SharedHeaderContents => {
  const slots = options.slots === undefined || options.slots === 0 ? defaultSlots : options.slots
  invariant(Number.isInteger(slots) && slots >= 1 && slots <= maxSlots, "a header is made with 1 ... 65,536 slots")
  return {
    pageSize: options.pageSize,
    slots,
    nextTxnId: 1n,
    snapshotSequence: 0n,
    commitSeq: toCommitSeq(0n),
    schemaEpoch: SchemaEpoch.make(0n),
    ecsEpoch: 0n,
    gcHorizon: toCommitSeq(0n),
    writerTxnId: 0n,
    writerPid: 0,
    writerGeneration: 0,
    writerBirth: 0n,
    writerLeaseExpiryUnixSeconds: 0n,
    nextCommitSeq: toCommitSeq(1n),
    publisherPid: 0,
    publisherGeneration: 0,
    publisherIsInitializing: false,
    publisherBirth: 0n
  }
}

const initializingBit = 1n << 63n
const low31 = 0x7fffffffn
const low32 = 0xffffffffn

/**
 * Who publishes, as the word at 160 says it.
 *
 * @category models
 * @since 0.1.0
 */
export interface PublisherWord {
  /** 0: nobody. */
  readonly pid: number
  /** Grows by one with every taking, 31 bits, then begins at 0 again. */
  readonly generation: number
  readonly isInitializing: boolean
}

/**
 * Packs the word at 160.
 *
 * @category encoding
 * @since 0.1.0
 */
export const toPublisherWord = ({ generation, isInitializing, pid }: PublisherWord): bigint =>
  (isInitializing ? initializingBit : 0n) | (BigInt(generation) << 32n) | BigInt(pid)

/**
 * Unpacks the word at 160.
 *
 * @category decoding
 * @since 0.1.0
 */
export const fromPublisherWord = (word: bigint): PublisherWord => ({
  pid: Number(word & low32),
  generation: Number((word >> 32n) & low31),
  isInitializing: (word & initializingBit) !== 0n
})

/**
 * Packs the word at 80: pid and generation of the serialized writer, both u32.
 *
 * @category encoding
 * @since 0.1.0
 */
export const toWriterWord = ({ generation, pid }: { readonly pid: number; readonly generation: number }): bigint =>
  (BigInt(generation) << 32n) | BigInt(pid)

/**
 * Unpacks the word at 80.
 *
 * @category decoding
 * @since 0.1.0
 */
export const fromWriterWord = (word: bigint): { readonly pid: number; readonly generation: number } => ({
  pid: Number(word & low32),
  generation: Number((word >> 32n) & low32)
})

const viewOf = (bytes: Uint8Array) => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)

/** The places of the regions as they stand in the header and in the checksum's input, in this order. */
const placesOf = (slots: number) => {
  const regions = regionsOf(slots)
  return [
    { field: "lock table offset", offset: offsets.lockTable, value: BigInt(regions.lockTable) },
    { field: "witness offset", offset: offsets.witness, value: BigInt(regions.witness) },
    { field: "transaction slot offset", offset: offsets.transactionSlots, value: BigInt(regions.transactionSlots) },
    { field: "committed readers offset", offset: offsets.committedReaders, value: BigInt(regions.committedReaders) },
    {
      field: "committed readers bytes",
      offset: offsets.committedReadersBytes,
      value: BigInt(regions.committedReadersBytes)
    }
  ]
}

const checksumInputBytes = 60

/**
 * XXH3-64 over the fields of a header that never change (SHM-03). `bytes` holds at least the header.
 *
 * @category checksums
 * @since 0.1.0
 */
export const checksumOf = (bytes: Uint8Array): bigint => {
  const input = new Uint8Array(checksumInputBytes)
  // Magic, version, page size and slots stand together, then the five places.
  input.set(bytes.subarray(offsets.magic, offsets.zero), 0)
  input.set(bytes.subarray(offsets.lockTable, offsets.checksum), offsets.zero)
  return xxh3(input)
}

const issueOf = (code: ShmRefusal["_tag"], field: string, offset: number, found: string, expected: string) =>
  new FormatIssue({ format: "shared-memory header", code, field, offset, found, expected })

const refuse = (...issue: Parameters<typeof issueOf>) => Result.fail(issueOf(...issue))

const hex64 = (value: bigint) => `0x${value.toString(16).padStart(16, "0")}`

/**
 * Why memory of so many bytes is too small for a header with its regions (`ShmTooSmall`); `undefined` when it is not.
 *
 * @category decoding
 * @since 0.1.0
 */
export const shortageOf = (slots: number, bytes: number): FormatIssue | undefined => {
  const needed = mappedBytes(slots)
  if (bytes >= needed) return undefined
  return issueOf("ShmTooSmall", "length", 0, `${bytes} bytes`, `at least ${needed} bytes, with the regions`)
}

const isPageSize = (value: number): value is PageSize => pageSizes.some((size) => size === value)

/**
 * Whether somebody was still filling the header when these bytes were read (RC-27).
 *
 * @category predicates
 * @since 0.1.0
 */
export const isInitializing = (bytes: Uint8Array): boolean =>
  bytes.length >= 8 && viewOf(bytes).getBigUint64(offsets.magic, true) === initializingMagic

/**
 * Which process these bytes name as their publisher or creator, whether or not they pass the checks. Pid 0: nobody, or
 * there are too few bytes.
 *
 * @category decoding
 * @since 0.1.0
 */
export const publisherOf = (bytes: Uint8Array): { readonly pid: number; readonly birth: bigint } => {
  if (bytes.length < sharedHeaderBytes) return { pid: 0, birth: 0n }
  const view = viewOf(bytes)
  return {
    pid: fromPublisherWord(view.getBigUint64(offsets.publisherOwner, true)).pid,
    birth: view.getBigUint64(offsets.publisherBirth, true)
  }
}

/**
 * Reads a header. Bytes behind the first 216 are not looked at.
 *
 * **Details**
 *
 * Codes, in the order of the checks: `ShmTooSmall`, `ShmBadMagic`, `ShmVersionMismatch`, `ShmInvalidPageSize`,
 * `ShmChecksumMismatch`, `ShmLayoutMismatch` (no slots, a region that is not where the number of slots puts it, a zero
 * field or padding that is not zero).
 *
 * @category decoding
 * @since 0.1.0
 */
export const decode = (bytes: Uint8Array): Result.Result<SharedHeaderContents, FormatIssue> => {
  if (bytes.length < sharedHeaderBytes) {
    return refuse("ShmTooSmall", "length", 0, `${bytes.length} bytes`, `at least ${sharedHeaderBytes} bytes`)
  }
  const view = viewOf(bytes)
  const word = (offset: number) => view.getBigUint64(offset, true)
  const foundMagic = word(offsets.magic)
  if (foundMagic !== magic) {
    const found = foundMagic === initializingMagic ? "FSQLINI, still being filled" : hex64(foundMagic)
    return refuse("ShmBadMagic", "magic", offsets.magic, found, `${hex64(magic)} (FSQLSHM)`)
  }
  const foundVersion = view.getUint32(offsets.version, true)
  if (foundVersion !== version) {
    return refuse("ShmVersionMismatch", "version", offsets.version, `${foundVersion}`, `${version}`)
  }
  const pageSize = view.getUint32(offsets.pageSize, true)
  if (!isPageSize(pageSize)) {
    return refuse("ShmInvalidPageSize", "page size", offsets.pageSize, `${pageSize}`, "a power of two, 512 ... 65536")
  }
  const stored = word(offsets.checksum)
  const computed = checksumOf(bytes)
  if (stored !== computed) {
    return refuse("ShmChecksumMismatch", "XXH3-64", offsets.checksum, hex64(stored), hex64(computed))
  }
  const slots = view.getUint32(offsets.slots, true)
  if (slots === 0) return refuse("ShmLayoutMismatch", "slots", offsets.slots, "0", "at least 1")
  for (const { field, offset, value } of placesOf(slots)) {
    if (word(offset) !== value) return refuse("ShmLayoutMismatch", field, offset, `${word(offset)}`, `${value}`)
  }
  const zero = view.getUint32(offsets.zero, true)
  if (zero !== 0) return refuse("ShmLayoutMismatch", "zero field", offsets.zero, `${zero}`, "0")
  for (let offset: number = offsets.padding; offset < sharedHeaderBytes; offset += 8) {
    if (word(offset) !== 0n) return refuse("ShmLayoutMismatch", "padding", offset, hex64(word(offset)), "zeros")
  }
  const writer = fromWriterWord(word(offsets.writerOwner))
  const publisher = fromPublisherWord(word(offsets.publisherOwner))
  return Result.succeed({
    pageSize,
    slots,
    nextTxnId: word(offsets.nextTxnId),
    snapshotSequence: word(offsets.snapshotSequence),
    commitSeq: toCommitSeq(word(offsets.commitSeq)),
    schemaEpoch: SchemaEpoch.make(word(offsets.schemaEpoch)),
    ecsEpoch: word(offsets.ecsEpoch),
    gcHorizon: toCommitSeq(word(offsets.gcHorizon)),
    writerTxnId: word(offsets.writerTxnId),
    writerPid: writer.pid,
    writerGeneration: writer.generation,
    writerBirth: word(offsets.writerBirth),
    writerLeaseExpiryUnixSeconds: word(offsets.writerLeaseExpiry),
    nextCommitSeq: toCommitSeq(word(offsets.nextCommitSeq)),
    publisherPid: publisher.pid,
    publisherGeneration: publisher.generation,
    publisherIsInitializing: publisher.isInitializing,
    publisherBirth: word(offsets.publisherBirth)
  })
}

/**
 * The 216 bytes of a header, checksum included: what a new file begins with.
 *
 * @category encoding
 * @since 0.1.0
 */
export const encode = (contents: SharedHeaderContents): Uint8Array => {
  const bytes = new Uint8Array(sharedHeaderBytes)
  const view = viewOf(bytes)
  const word = (offset: number, value: bigint) => {
    view.setBigUint64(offset, value, true)
  }
  word(offsets.magic, magic)
  view.setUint32(offsets.version, version, true)
  view.setUint32(offsets.pageSize, contents.pageSize, true)
  view.setUint32(offsets.slots, contents.slots, true)
  word(offsets.nextTxnId, contents.nextTxnId)
  word(offsets.snapshotSequence, contents.snapshotSequence)
  word(offsets.commitSeq, contents.commitSeq)
  word(offsets.schemaEpoch, contents.schemaEpoch)
  word(offsets.ecsEpoch, contents.ecsEpoch)
  word(offsets.gcHorizon, contents.gcHorizon)
  word(offsets.writerTxnId, contents.writerTxnId)
  word(offsets.writerOwner, toWriterWord({ pid: contents.writerPid, generation: contents.writerGeneration }))
  word(offsets.writerBirth, contents.writerBirth)
  word(offsets.writerLeaseExpiry, contents.writerLeaseExpiryUnixSeconds)
  for (const { offset, value } of placesOf(contents.slots)) word(offset, value)
  word(offsets.nextCommitSeq, contents.nextCommitSeq)
  word(
    offsets.publisherOwner,
    toPublisherWord({
      pid: contents.publisherPid,
      generation: contents.publisherGeneration,
      isInitializing: contents.publisherIsInitializing
    })
  )
  word(offsets.publisherBirth, contents.publisherBirth)
  word(offsets.checksum, checksumOf(bytes))
  return bytes
}

/**
 * The header as a codec.
 *
 * @category schemas
 * @since 0.1.0
 */
export const SharedHeaderFromBytes: Schema.Codec<SharedHeaderContents, Uint8Array> = toCodec<SharedHeaderContents>(
  SharedHeaderContents,
  { decode, encode }
)

const refusals = {
  ShmTooSmall,
  ShmBadMagic,
  ShmVersionMismatch,
  ShmInvalidPageSize,
  ShmChecksumMismatch,
  ShmLayoutMismatch
} as const

const isRefusalCode = (code: string): code is keyof typeof refusals => Object.hasOwn(refusals, code)

/**
 * The typed error of an issue of {@link decode}.
 *
 * @category errors
 * @since 0.1.0
 */
export const toRefusal = (path: string, issue: FormatIssue): ShmRefusal => {
  const { code } = issue
  invariant(isRefusalCode(code), "every issue of a shared-memory header has a typed error of its name")
  return new refusals[code]({ path, issue })
}
