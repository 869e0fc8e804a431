import { assert, describe, it } from "@effect/vitest"
import { CommitSeq, toPageNumber, TxnEpoch, TxnId, WalEpoch } from "@tidemark/core/Scalars"
import { MemoryDisk } from "@tidemark/platform/MemoryDisk"
import * as MemoryVfs from "@tidemark/platform/MemoryVfs"
import { Vfs } from "@tidemark/platform/Vfs"
import * as Certificates from "@tidemark/wal/CertificateFormat"
import * as CheckpointMark from "@tidemark/wal/CheckpointMarkFormat"
import * as Segment from "@tidemark/wal/SegmentFormat"
import { Effect, Result, Stream } from "effect"
import { inspectFile } from "../src/inspection/inspectFile.ts"

const path = "/data/file"

/** What is wrong with a file of these bytes; its records are listed, too, however bad it is. */
const problemsOf = (bytes: Uint8Array) => {
  const disk = MemoryDisk.make({ async: false })
  disk.writeFile(path, bytes)
  return Effect.gen(function*() {
    const file = yield* (yield* Vfs).open(path, { access: "read" })
    const { problems, records } = yield* inspectFile({ file, bytes: bytes.length })
    if (records !== undefined) {
      const listed = yield* Stream.runCollect(records.list({ from: 0, to: Number.MAX_SAFE_INTEGER }))
      for (const { fields } of listed) assert.deepStrictEqual(Object.keys(fields), [...records.fieldNames])
    }
    return problems
  }).pipe(Effect.scoped, Effect.provide(MemoryVfs.layerDisk(disk)))
}

const recordOf = (page: number): Segment.SegmentRecord => ({
  token: { id: TxnId.make(5n), epoch: TxnEpoch.make(0) },
  walEpoch: WalEpoch.make(7n),
  page: toPageNumber(page),
  begin: CommitSeq.make(9n),
  end: CommitSeq.make(9n),
  before: new Uint8Array(0),
  after: new Uint8Array(16).fill(page)
})

const certificateOf = (n: number): Certificates.Certificate => ({
  fallbackActive: false,
  aborted: false,
  certificateEpoch: BigInt(n),
  low: CommitSeq.make(BigInt(n)),
  high: CommitSeq.make(BigInt(n)),
  segmentEpoch: WalEpoch.make(BigInt(n)),
  databasePages: 3,
  pageSetSize: 1,
  segmentCrc: 77,
  laneRecords: [1, 1]
})

const logHeader = Certificates.encodeHeader({ databaseId: new Uint8Array(16).fill(1), createdUnixNanos: 1n })
const certificateLog = [logHeader]
for (const n of [1, 2, 3]) {
  const chain = Certificates.checksumOf(certificateLog.at(-1) ?? logHeader)
  certificateLog.push(Certificates.encodeCertificate(certificateOf(n), chain))
}

/** Each with the lengths at which it may be cut off without anything being missed. */
const files: ReadonlyArray<readonly [name: string, bytes: Uint8Array, wholeAt: ReadonlyArray<number>]> = [
  ["PW-20 a segment", Result.getOrThrow(Segment.encode(WalEpoch.make(7n), [1, 2, 3].map(recordOf))), []],
  [
    "RC-09, RC-10 a certificate log",
    Buffer.concat(certificateLog),
    [0, 1, 2].map((count) => Certificates.certificateLogHeaderBytes + count * Certificates.certificateBytes(2))
  ],
  [
    "a checkpoint mark",
    CheckpointMark.encode({
      kind: "native",
      through: CommitSeq.make(1n),
      segmentEpoch: WalEpoch.make(0n),
      certificateEpoch: 0n,
      databasePages: 1
    }),
    []
  ]
]

describe("inspect", () => {
  for (const [name, bytes, wholeAt] of files) {
    it.effect(`${name} has a problem wherever a bit of it is flipped, and wherever it is cut off`, () =>
      Effect.gen(function*() {
        assert.deepStrictEqual(yield* problemsOf(bytes), [])
        for (let at = 0; at < bytes.length; at++) {
          const flipped = Uint8Array.from(bytes)
          flipped[at] = (flipped[at] ?? 0) ^ (1 << (at % 8))
          assert.isAbove((yield* problemsOf(flipped)).length, 0, `a bit of byte ${at} is flipped`)
          const problems = yield* problemsOf(bytes.subarray(0, at))
          // No bytes at all are an empty file, of whatever kind.
          if (at === 0 || wholeAt.includes(at)) assert.deepStrictEqual(problems, [], `cut off at ${at}`)
          else assert.isAbove(problems.length, 0, `cut off at ${at}`)
        }
      }))
  }
})
