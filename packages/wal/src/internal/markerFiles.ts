/**
 * The files of a marker stream, open for appending.
 *
 * Invariants
 * 1. Before anything is appended, everything that counts is durable: what was found is written once more, because after
 *    a failed sync the system may show bytes that the disk does not have.
 * 2. Records are written where the ones before ended. A segment is synced before the next one is made, in every mode, and
 *    that one is whole and durable before its name is.
 * 3. Behind accepted damage the stream goes on in a segment above everything that had a slot, which is made before
 *    anything of the damage is cleared away: whoever crashes in between finds damage again, and no sequence twice.
 * 4. What shares memory shares its time: records that were encoded into one buffer one behind another, as the queue of a
 *    group commit does within one batch. The next buffer has a later time.
 * 5. After a failure, and after `abandon`, no file is touched.
 */
import { invariant } from "@tidemark/core/Invariant"
import type { CommitSeq } from "@tidemark/core/Scalars"
import { toCommitSeq } from "@tidemark/core/Scalars"
import type { Vfs, VfsFile } from "@tidemark/platform/Vfs"
import type { VfsError } from "@tidemark/platform/VfsError"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Scope from "effect/Scope"
import { replaceFile } from "../AtomicFile.ts"
import {
  encodeHeader,
  encodeMarkerInto,
  isNoObject,
  type Marker,
  markerBytes,
  markersDirectory,
  markerSegmentHeaderBytes,
  markerSegmentPath,
  noObject,
  segmentIdOf,
  segmentStart
} from "../MarkerFormat.ts"
import type { MarkerFiles, MarkerScan, MarkerSegmentFile, OpenMarkersOptions } from "../MarkerStore.ts"
import { ensureDirectory } from "./appendLogRecovery.ts"
import { offsetInSegment, viewOf } from "./markerWalk.ts"
import { rewrite } from "./rewrite.ts"

/** @internal */
export interface OpenMarkerFilesOptions extends OpenMarkersOptions {
  readonly perSegment: number
}

/** @internal */
export const openMarkerFiles = Effect.fnUntraced(function*(
  vfs: Vfs["Service"],
  options: OpenMarkerFilesOptions
): Effect.fn.Return<MarkerFiles, VfsError, Scope.Scope> {
  const { database, perSegment, scan } = options
  const directory = markersDirectory(database)
  const clock = yield* Clock.Clock
  const parts: Parts = { vfs, database, directory, perSegment, clock }
  yield* ensureDirectory(vfs, directory)
  for (const name of scan.temporaries) yield* vfs.remove(`${directory}/${name}`)

  const kept = scan.segments.filter(({ records }) => records > 0)
  const stale = scan.segments.filter(({ records }) => records === 0)
  const id = beginningId(options)
  let began: { readonly marker: Marker; readonly segment: MarkerSegmentFile } | undefined
  if (scan.damage !== undefined) {
    invariant(id !== undefined, "a damaged stream goes on in another segment")
    began = yield* begin(parts, id, scan.last)
  }
  for (const segment of stale) yield* vfs.remove(segment.path)
  yield* settle(vfs, scan, kept.at(-1))
  yield* vfs.syncDirectory(directory)
  if (scan.damage === undefined && id !== undefined) began = yield* begin(parts, id, scan.last)

  const last = began?.marker ?? scan.last
  const segments = began === undefined ? kept : [...kept, began.segment]
  const current = segments.at(-1)
  invariant(last !== undefined && current !== undefined, "an open stream has a record")
  const opened = yield* openIn(yield* Effect.scope, vfs, current.path)
  return new Stream(parts, yield* Effect.scope, segments, last, opened)
  // In one piece: what was begun is finished.
}, Effect.uninterruptible)

interface Parts {
  readonly vfs: Vfs["Service"]
  readonly database: string
  readonly directory: string
  readonly perSegment: number
  readonly clock: Clock.Clock
}

/** The segment with which the stream begins, or goes on with a genesis record; `undefined` when it just goes on. */
const beginningId = ({ perSegment, scan, tip }: OpenMarkerFilesOptions): bigint | undefined => {
  const { damage, last } = scan
  if (damage === undefined && last !== undefined && last.seq >= tip) return undefined
  const aboveTip = tip === 0n ? 0n : segmentIdOf(tip, perSegment) + 1n
  const newest = scan.segments.at(-1)?.id
  // Behind damage above every slot too: what stood there may have been acknowledged.
  return damage !== undefined && newest !== undefined && newest >= aboveTip ? newest + 1n : aboveTip
}

/** Makes a segment that begins with a genesis record, whole and durable. */
const begin = Effect.fnUntraced(function*(
  parts: Parts,
  id: bigint,
  before: Marker | undefined
): Effect.fn.Return<{ readonly marker: Marker; readonly segment: MarkerSegmentFile }, VfsError> {
  const start = segmentStart(id, parts.perSegment)
  const bytes = new Uint8Array(markerSegmentHeaderBytes + markerBytes)
  bytes.set(encodeHeader({ segmentId: id, start }))
  const record = {
    seq: start,
    timeUnixNanos: laterThan(before, parts.clock),
    capsule: noObject,
    proof: noObject,
    previous: before?.id ?? noObject
  }
  const marker = { ...record, id: encodeMarkerInto(bytes, viewOf(bytes), markerSegmentHeaderBytes, record) }
  const path = markerSegmentPath(parts.database, id)
  yield* replaceFile(parts.vfs, path, bytes)
  return { marker, segment: { path, id, start, bytes: bytes.length, records: 1 } }
})

/** Now, but later than a record. */
const laterThan = (before: Marker | undefined, clock: Clock.Clock): bigint => {
  const now = clock.currentTimeNanosUnsafe()
  return before !== undefined && now <= before.timeUnixNanos ? before.timeUnixNanos + 1n : now
}

/** Invariant 1, and nothing is left behind the last record that counts. */
const settle = (
  vfs: Vfs["Service"],
  scan: MarkerScan,
  last: MarkerSegmentFile | undefined
): Effect.Effect<void, VfsError> =>
  last === undefined ? Effect.void : Effect.scoped(Effect.gen(function*() {
    const file = yield* vfs.open(last.path, { access: "readWrite" })
    const end = markerSegmentHeaderBytes + last.records * markerBytes
    const verified = scan.verifiedFrom > last.start ? offsetInSegment(last.start, scan.verifiedFrom) : 0
    if (end < last.bytes) yield* file.truncate(end)
    yield* rewrite(file, verified, end)
    yield* file.syncFull
  }))

interface OpenedFile {
  readonly file: VfsFile
  readonly scope: Scope.Closeable
}

/** Opens a file in a scope of its own: it is closed when the next one is made. */
const openIn = (parent: Scope.Scope, vfs: Vfs["Service"], path: string): Effect.Effect<OpenedFile, VfsError> =>
  Effect.uninterruptible(Effect.flatMap(Scope.fork(parent), (scope) =>
    vfs.open(path, { access: "readWrite" }).pipe(
      Scope.provide(scope),
      Effect.map((file) => ({ file, scope })),
      Effect.onError(() => Scope.close(scope, Exit.void))
    )))

const byteLength = (buffers: ReadonlyArray<Uint8Array>): number => {
  let bytes = 0
  for (const buffer of buffers) bytes += buffer.length
  return bytes
}

/** The first `bytes` of buffers, and what is left of them. */
const splitAt = (
  buffers: ReadonlyArray<Uint8Array>,
  bytes: number
): readonly [ReadonlyArray<Uint8Array>, ReadonlyArray<Uint8Array>] => {
  const front: Array<Uint8Array> = []
  const back: Array<Uint8Array> = []
  let left = bytes
  for (const buffer of buffers) {
    const taken = Math.min(left, buffer.length)
    if (taken > 0) front.push(buffer.subarray(0, taken))
    if (taken < buffer.length) back.push(buffer.subarray(taken))
    left -= taken
  }
  return [front, back]
}

const inBackground = { background: true } as const
const inForeground = { background: false } as const

class Stream implements MarkerFiles {
  readonly directory: string
  private readonly parts: Parts
  private readonly scope: Scope.Scope
  private readonly list: Array<MarkerSegmentFile>
  private opened: OpenedFile
  /** The sequence of the next record that is written. */
  private written: CommitSeq
  private marker: Marker
  /** Where the last record was encoded, and the time that it shares with those that follow it there. */
  private batchView: DataView | undefined
  private batchOffset = 0
  private isAbandoned = false

  constructor(
    parts: Parts,
    scope: Scope.Scope,
    segments: ReadonlyArray<MarkerSegmentFile>,
    last: Marker,
    opened: OpenedFile
  ) {
    this.parts = parts
    this.directory = parts.directory
    this.scope = scope
    this.list = [...segments]
    this.marker = last
    this.written = toCommitSeq(last.seq + 1n)
    this.opened = opened
  }

  readonly last = (): Marker => this.marker

  readonly next = (): CommitSeq => toCommitSeq(this.marker.seq + 1n)

  readonly segments = (): ReadonlyArray<MarkerSegmentFile> => this.list

  readonly abandon = (): void => {
    this.isAbandoned = true
  }

  // -- encoding -------------------------------------------------------------------------------------------------------

  readonly encodeNext: MarkerFiles["encodeNext"] = (capsule, proof, target, view, offset) => {
    invariant(!isNoObject(capsule), "a commit has a capsule")
    const before = this.marker
    const isSameBatch = view === this.batchView && offset > this.batchOffset
    const record = {
      seq: toCommitSeq(before.seq + 1n),
      timeUnixNanos: isSameBatch ? before.timeUnixNanos : laterThan(before, this.parts.clock),
      capsule,
      proof: proof ?? noObject,
      previous: before.id
    }
    const marker = { ...record, id: encodeMarkerInto(target, view, offset, record) }
    this.batchView = view
    this.batchOffset = offset
    this.marker = marker
    return marker
  }

  // -- writing --------------------------------------------------------------------------------------------------------

  readonly write: MarkerFiles["write"] = (buffers, from) =>
    this.append(buffers, from, (file, pieces, position) => file.write(pieces, position))

  readonly writeAndSync: MarkerFiles["writeAndSync"] = (buffers, from, background = false) =>
    this.append(
      buffers,
      from,
      (file, pieces, position) => file.writeAndSyncData(pieces, position, background ? inBackground : inForeground)
    )

  readonly sync: Effect.Effect<void, VfsError> = Effect.suspend(() => this.unlessAbandoned(this.opened.file.syncData))

  private append(
    buffers: ReadonlyArray<Uint8Array>,
    from: CommitSeq,
    put: (file: VfsFile, buffers: ReadonlyArray<Uint8Array>, position: number) => Effect.Effect<void, VfsError>
  ): Effect.Effect<void, VfsError> {
    return Effect.suspend(() => {
      const bytes = byteLength(buffers)
      invariant(bytes % markerBytes === 0, "markers are written whole")
      invariant(from === this.written, "markers are written where the ones before ended")
      const piece = (part: ReadonlyArray<Uint8Array>, count: number) =>
        Effect.suspend(() => {
          const { segment } = this.current()
          const position = offsetInSegment(segment.start, this.written)
          return Effect.map(this.unlessAbandoned(put(this.opened.file, part, position)), () => this.advance(count))
        })
      const count = bytes / markerBytes
      const room = this.current().room
      return count <= room ? piece(buffers, count) : this.appendOver(buffers, count, piece)
    })
  }

  /** Writes over the end of a segment, or of several. */
  private appendOver(
    buffers: ReadonlyArray<Uint8Array>,
    count: number,
    piece: (part: ReadonlyArray<Uint8Array>, count: number) => Effect.Effect<void, VfsError>
  ): Effect.Effect<void, VfsError> {
    return Effect.uninterruptible(Effect.gen({ self: this }, function*() {
      let left = buffers
      for (let missing = count; missing > 0;) {
        if (this.current().room === 0) yield* this.rotate
        const taken = Math.min(missing, this.current().room)
        const [front, back] = splitAt(left, taken * markerBytes)
        yield* piece(front, taken)
        left = back
        missing -= taken
      }
    }))
  }

  /** Invariant 2. */
  private readonly rotate: Effect.Effect<void, VfsError> = Effect.suspend(() => {
    const { database, perSegment, vfs } = this.parts
    const id = this.current().segment.id + 1n
    const start = segmentStart(id, perSegment)
    invariant(start === this.written, "a segment is followed by the next one when it is full")
    const header = encodeHeader({ segmentId: id, start })
    const path = markerSegmentPath(database, id)
    return Effect.gen({ self: this }, function*() {
      yield* this.unlessAbandoned(this.opened.file.syncData)
      yield* this.unlessAbandoned(replaceFile(vfs, path, header))
      const before = this.opened
      this.opened = yield* openIn(this.scope, vfs, path)
      this.list.push({ path, id, start, bytes: header.length, records: 0 })
      yield* Scope.close(before.scope, Exit.void)
    })
  })

  /** The segment that is written, and how many records still fit into it. */
  private current(): { readonly segment: MarkerSegmentFile; readonly room: number } {
    const segment = this.list.at(-1)
    invariant(segment !== undefined, "an open stream has a segment")
    return { segment, room: this.parts.perSegment - segment.records }
  }

  private advance(count: number): void {
    const { segment } = this.current()
    const records = segment.records + count
    this.list[this.list.length - 1] = { ...segment, records, bytes: markerSegmentHeaderBytes + records * markerBytes }
    this.written = toCommitSeq(this.written + BigInt(count))
  }

  private unlessAbandoned<A>(step: Effect.Effect<A, VfsError>): Effect.Effect<A, VfsError> {
    return Effect.suspend(() => this.isAbandoned ? Effect.interrupt : step)
  }
}
