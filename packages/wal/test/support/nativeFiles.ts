/** Databases with a native log as files, made by the encoders of this package. */
import { assert } from "@effect/vitest"
import { type ObjectId, toPageNumber, toTxnId, TxnEpoch } from "@tidemark/core/Scalars"
import * as MemoryVfs from "@tidemark/platform/MemoryVfs"
import { Vfs } from "@tidemark/platform/Vfs"
import { Effect } from "effect"
import { capsulePath, encode, type EncodedCapsule } from "../../src/CapsuleFormat.ts"
import type { CheckpointMark } from "../../src/CheckpointMarkFormat.ts"
import { markersPerSegment } from "../../src/MarkerFormat.ts"
import { examineNative, type LiveCapsule, type NativeExamination } from "../../src/NativeStartUp.ts"
import { seq } from "./certificates.ts"
import { headerOf, idIn, recordOf, segmentFile as markersFile, timeOf, zeroId } from "./markers.ts"
import { type Contents, diskOf, imageOf, markBytes, markedDatabase } from "./parallelFiles.ts"
import { concat, files, pageSize, path } from "./walFiles.ts"

export { markersFile }

/** A commit of the log. */
export interface Committed {
  readonly seq: number
  /** Ascending. */
  readonly pages: ReadonlyArray<number>
  readonly databasePages?: number
  readonly pageSize?: typeof pageSize
  /** Default: the sequence. */
  readonly txnId?: number
  /** Default: the sequence before. */
  readonly begin?: number
}

/** Its capsule. What the pages hold depends on the sequence alone. */
export const capsuleOf = (commit: Committed): EncodedCapsule => {
  const size = commit.pageSize ?? pageSize
  return encode({
    token: { id: toTxnId(BigInt(commit.txnId ?? commit.seq)), epoch: TxnEpoch.make(7) },
    beginSeq: seq(commit.begin ?? commit.seq - 1),
    databasePages: commit.databasePages ?? 4,
    pageSize: size,
    pages: commit.pages.map(toPageNumber)
  }, (page) => {
    const image = new Uint8Array(size)
    image.set(imageOf(commit.seq, page))
    return image
  })
}

export const capsuleFile = (commit: Committed): string => capsulePath(path, capsuleOf(commit).id)

export const capsulesOf = (commits: ReadonlyArray<Committed>): Contents =>
  Object.fromEntries(commits.map((commit) => [capsuleFile(commit), capsuleOf(commit).bytes]))

/** A part of the stream: a genesis record, and commits one after another behind it. */
export interface Part {
  readonly start: number
  readonly commits: ReadonlyArray<Committed>
}

/** The marker segments that hold these parts, whose records are one chain. */
export const markersOf = (parts: ReadonlyArray<Part>): Contents => {
  const records = new Map<string, Array<Uint8Array>>()
  let previous: ObjectId = zeroId
  const append = (at: number, capsule: ObjectId) => {
    const id = Math.floor(at / markersPerSegment)
    const file = markersFile(id)
    const record = recordOf({ seq: seq(at), timeUnixNanos: timeOf(seq(at)), capsule, proof: zeroId, previous })
    const segment = records.get(file) ?? [headerOf(id, id * markersPerSegment)]
    segment.push(record)
    records.set(file, segment)
    previous = idIn(record)
  }
  for (const { commits, start } of parts) {
    append(start, zeroId)
    for (const commit of commits) append(commit.seq, capsuleOf(commit).id)
  }
  return Object.fromEntries(Array.from(records, ([file, bytes]) => [file, concat(...bytes)]))
}

export const recordBytes = 88
/** Where the record of a sequence starts in the first segment. */
export const recordAt = (at: number): number => 36 + recordBytes * at

/** Five commits. The database grows to five pages. */
export const commits: readonly [Committed, Committed, Committed, Committed, Committed] = [
  { seq: 1, pages: [1, 2] },
  { seq: 2, pages: [2], txnId: 90 },
  { seq: 3, pages: [1, 3] },
  { seq: 4, pages: [4] },
  { seq: 5, pages: [2, 5], databasePages: 5 }
]

export const part: Part = { start: 0, commits }
export const segment0 = markersFile(0)
export const markers: Contents = markersOf([part])
export const capsules: Contents = capsulesOf(commits)

/** A database in the middle of {@link commits}. */
export const wholeNative: Contents = { [files.database]: markedDatabase(), ...markers, ...capsules }

export const nativeMark = (through: number, fields: Partial<CheckpointMark> = {}): Uint8Array =>
  markBytes({ kind: "native", through: seq(through), databasePages: through < 5 ? 4 : 5, ...fields })

/** Examines what these files are. Nothing on the disk may change by it: no byte, no name. */
export const examineNativeAs = (
  contents: Contents,
  options?: { readonly acceptLoss?: boolean }
): Effect.Effect<NativeExamination> => {
  const disk = diskOf(contents)
  const trace = disk.record()
  return Effect.gen(function*() {
    const found = yield* examineNative(yield* Vfs, path, options)
    assert.strictEqual(trace.steps.length, 0, "an examination changes nothing")
    assert.sameMembers(Array.from(disk.files), ["/data/neighbour", ...Object.keys(contents)])
    for (const [file, bytes] of Object.entries(contents)) {
      assert.isTrue(Buffer.from(bytes).equals(disk.readFile(file) ?? new Uint8Array(0)), file)
    }
    return found
  }).pipe(Effect.provide(MemoryVfs.layerDisk(disk)), Effect.orDie)
}

export const seqsOf = ({ live }: Pick<NativeExamination, "live">): ReadonlyArray<number> =>
  live.map((capsule) => Number(capsule.seq))

/** What a replay makes of the pages: the last image of each, found where the examination says that it starts. */
export const replayedPages = (
  contents: Contents,
  live: ReadonlyArray<LiveCapsule>,
  size: number = pageSize
): ReadonlyMap<number, Uint8Array> => {
  const pages = new Map<number, Uint8Array>()
  for (const capsule of live) {
    const bytes = contents[capsule.path]
    if (bytes === undefined) throw new Error("a live capsule is there")
    assert.strictEqual(capsule.bytes, bytes.length)
    capsule.pages.forEach((page, index) => {
      const offset = capsule.offsets[index] ?? -1
      pages.set(page, bytes.slice(offset, offset + size))
    })
  }
  return pages
}

/** The pages after the first `count` of {@link commits}. */
export const pagesAfter = (count: number): ReadonlyMap<number, Uint8Array> => {
  const pages = new Map<number, Uint8Array>()
  for (const commit of commits.slice(0, count)) {
    for (const page of commit.pages) pages.set(page, imageOf(commit.seq, page))
  }
  return pages
}

export const severities = ({ problems }: Pick<NativeExamination, "problems">) =>
  problems.map(({ path: file, severity }) => [file, severity])
