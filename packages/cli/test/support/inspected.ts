/**
 * Small files of the native log, and what `inspect` says of them, in this process.
 */
import { assert } from "@effect/vitest"
import * as SharedHeader from "@tidemark/coordinator/SharedHeaderFormat"
import * as TransactionSlot from "@tidemark/coordinator/TransactionSlotFormat"
import { CommitSeq, PageSize, toObjectId, toPageNumber, TxnEpoch, TxnId } from "@tidemark/core/Scalars"
import { MemoryDisk } from "@tidemark/platform/MemoryDisk"
import * as MemoryVfs from "@tidemark/platform/MemoryVfs"
import { Vfs } from "@tidemark/platform/Vfs"
import * as Capsule from "@tidemark/wal/CapsuleFormat"
import * as Marker from "@tidemark/wal/MarkerFormat"
import * as MarkerSegment from "@tidemark/wal/MarkerSegmentFormat"
import { Effect, Stream } from "effect"
import { inspectFile } from "../../src/inspection/inspectFile.ts"
import type { Fields, Inspection, Problem, RecordRange } from "../../src/inspection/Inspection.ts"

// -- files ------------------------------------------------------------------------------------------------------------

/** Nanoseconds since 1970 of the commit with a sequence. */
export const timeOf = (seq: bigint) => 1_700_000_000_000_000_000n + seq * 1_000_000n

/** Markers from a sequence on, behind one with the id `previous`: the first one is a genesis record if it has to be. */
export const markersOf = (options: {
  readonly start: bigint
  readonly count: number
  readonly previous?: Marker.Marker["id"]
  readonly genesis?: boolean
}): ReadonlyArray<Marker.Marker> => {
  const markers: Array<Marker.Marker> = []
  for (let i = 0; i < options.count; i++) {
    const seq = CommitSeq.make(options.start + BigInt(i))
    const isGenesis = i === 0 && options.genesis !== false
    const fields = {
      seq,
      timeUnixNanos: timeOf(seq),
      capsule: isGenesis ? Marker.noObject : toObjectId(new Uint8Array(16).fill(Number(seq % 200n) + 1)),
      proof: i === 2 ? toObjectId(new Uint8Array(16).fill(0xee)) : Marker.noObject,
      previous: markers.at(-1)?.id ?? options.previous ?? Marker.noObject
    }
    const bytes = new Uint8Array(Marker.markerBytes)
    const id = Marker.encodeMarkerInto(bytes, new DataView(bytes.buffer), 0, fields)
    markers.push({ ...fields, id })
  }
  return markers
}

/** A whole segment: its start is where its first marker is. */
export const segmentOf = (markers: ReadonlyArray<Marker.Marker>): Uint8Array => {
  const start = markers[0]?.seq ?? CommitSeq.make(0n)
  const header = { segmentId: start / BigInt(Marker.markersPerSegment), start }
  return MarkerSegment.encodeSegment({ header, markers })
}

/** Where the record of a slot begins, and where the file ends that has no more. */
export const offsetOfRecord = (slot: number) => 36 + 88 * slot

export const capsulePageSize = PageSize.make(512)

export const capsule = Capsule.encode({
  token: { id: TxnId.make(77n), epoch: TxnEpoch.make(5) },
  beginSeq: CommitSeq.make(40n),
  databasePages: 9,
  pageSize: capsulePageSize,
  pages: [2, 7].map(toPageNumber)
}, (page) => new Uint8Array(512).fill(page))

/** A slot of a running transaction. */
export const liveSlot: TransactionSlot.TransactionSlot = {
  tag: "live",
  holder: 300n,
  epoch: 6,
  pid: 4321,
  birth: 99n,
  leaseExpiryUnixSeconds: 1_700_000_100n,
  beginSeq: CommitSeq.make(19n),
  commitSeq: CommitSeq.make(0n),
  snapshotHigh: CommitSeq.make(20n),
  state: "active",
  mode: "concurrent",
  witnessEpoch: 0,
  hasInRw: true,
  hasOutRw: false,
  abortMark: TransactionSlot.abortMarkOf(300n),
  writeSetPages: 3,
  claimingUnixSeconds: 1_700_000_000n,
  cleanupTxnId: 300n
}

/** A header with its regions; slot 1 of its slots is live. */
export const sharedHeaderOf = (
  changes: Partial<SharedHeader.SharedHeaderContents> = {},
  slots: number = 3
): Uint8Array => {
  const contents = {
    ...SharedHeader.freshHeader({ pageSize: PageSize.make(4096), slots }),
    nextTxnId: 301n,
    snapshotSequence: 8n,
    commitSeq: CommitSeq.make(21n),
    nextCommitSeq: CommitSeq.make(22n),
    publisherPid: 1234,
    publisherGeneration: 2,
    publisherBirth: 55n,
    ...changes
  }
  const bytes = new Uint8Array(SharedHeader.mappedBytes(slots))
  bytes.set(SharedHeader.encode(contents))
  bytes.set(TransactionSlot.encode(liveSlot), offsetOfSlot(1, slots))
  return bytes
}

export const offsetOfSlot = (index: number, slots: number = 3) => 216 + 64 * slots + 128 * slots + 128 * index

export const flipped = (bytes: Uint8Array, at: number, bit: number = 6): Uint8Array => {
  const copy = Uint8Array.from(bytes)
  copy[at] = (copy[at] ?? 0) ^ (1 << bit)
  return copy
}

export const written = (bytes: Uint8Array, at: number, what: Uint8Array): Uint8Array => {
  const copy = Uint8Array.from(bytes)
  copy.set(what, at)
  return copy
}

// -- reports ----------------------------------------------------------------------------------------------------------

export const everything: RecordRange = { from: 0, to: Number.MAX_SAFE_INTEGER }

/** An inspection with its records, each of which has the fields that it should have. */
export const listed = (inspection: Inspection, range: RecordRange = everything) =>
  Effect.gen(function*() {
    const { records, ...rest } = inspection
    const rows = records === undefined ? [] : yield* Stream.runCollect(records.list(range))
    for (const { fields } of rows) assert.deepStrictEqual(Object.keys(fields), [...records?.fieldNames ?? []])
    return { ...rest, rows }
  })

export type Listed = Effect.Success<ReturnType<typeof listed>>

/** What is said of a file of these bytes, in a file system of its own. */
export const reportOn = (bytes: Uint8Array, path: string = "/data/file", range: RecordRange = everything) => {
  const disk = MemoryDisk.make({ async: false })
  disk.writeFile(path, bytes)
  return Effect.gen(function*() {
    const file = yield* (yield* Vfs).open(path, { access: "read" })
    const report = yield* Effect.flatMap(inspectFile({ file, bytes: bytes.length }), (found) => listed(found, range))
    assert.deepStrictEqual(disk.readFile(path), bytes)
    return report
  }).pipe(Effect.scoped, Effect.provide(MemoryVfs.layerDisk(disk)))
}

/** The one thing that is wrong. */
export const onlyProblem = (report: { readonly problems: ReadonlyArray<Problem> }): Problem => {
  const [problem, ...others] = report.problems
  assert.lengthOf(others, 0)
  assert(problem !== undefined, "there is a problem")
  return problem
}

/** As it is printed, for comparison. */
export const textOf = (report: Listed): string =>
  JSON.stringify(report, (_, value: unknown) => typeof value === "bigint" ? `${value}n` : value)

export const field = (fields: Fields | null, name: string) => fields?.[name]
