/**
 * Reading a marker stream, also while it grows: from its files, through descriptors of its own, up to what is durable.
 *
 * Invariants
 * 1. What is handed out was checked, alone and in its slot, and as the successor of what the same reading handed out
 *    before it.
 * 2. A reading holds one piece of a file in memory and one descriptor; nobody waits for it.
 */
import type { FormatIssue } from "@tidemark/core/BinaryFormat"
import { invariant } from "@tidemark/core/Invariant"
import type { CommitSeq } from "@tidemark/core/Scalars"
import { toCommitSeq } from "@tidemark/core/Scalars"
import type { Vfs, VfsFile } from "@tidemark/platform/Vfs"
import type { VfsError } from "@tidemark/platform/VfsError"
import * as Arr from "effect/Array"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { MarkerUnreadable } from "../MarkerErrors.ts"
import { isGenesis, type Marker, markerAt, markerBytes } from "../MarkerFormat.ts"
import type { MarkerReader, MarkerSegmentFile, MarkerSource } from "../MarkerStore.ts"
import { bufferFor, genesisIn, headerIssue, MarkerWalk, offsetInSegment, viewOf } from "./markerWalk.ts"

type ReadError = VfsError | MarkerUnreadable

/** @internal */
export interface ReaderOptions extends MarkerSource {
  readonly perSegment: number
}

interface OpenedSegment {
  readonly segment: MarkerSegmentFile
  readonly file: VfsFile
  readonly scope: Scope.Closeable
}

/** Whole records that were checked, until the next piece is read. */
interface Piece {
  readonly bytes: Uint8Array
  readonly count: number
}

const unreadable = (path: string, issue: FormatIssue) => Effect.fail(new MarkerUnreadable({ path, issue }))

/** Reads on from one sequence to another, both included, over the ends of segments. */
class MarkerCursor {
  private readonly vfs: Vfs["Service"]
  private readonly options: ReaderOptions
  private readonly scope: Scope.Scope
  private readonly walk: MarkerWalk
  /** As many records as are read at a time. */
  private readonly buffer: Uint8Array
  private readonly to: CommitSeq
  private at: CommitSeq
  private opened: OpenedSegment | undefined

  constructor(
    vfs: Vfs["Service"],
    options: ReaderOptions,
    scope: Scope.Scope,
    range: { readonly from: CommitSeq; readonly to: CommitSeq; readonly piece: number }
  ) {
    this.vfs = vfs
    this.options = options
    this.scope = scope
    this.at = range.from
    this.to = range.to
    this.buffer = bufferFor(range.piece)
    const first = options.segments()[0]
    this.walk = new MarkerWalk(first === undefined || range.from <= first.start ? "none" : "unknown")
  }

  /** The next piece; `undefined` at the end of what may be read. */
  readonly next: Effect.Effect<Piece | undefined, ReadError> = Effect.suspend(() => {
    const place = this.find()
    return place === undefined ? Effect.undefined : this.read(place.index, place.end)
  })

  /** The segment that holds the next record, and the sequence behind the last one in it that may be read. */
  private find(): { readonly index: number; readonly end: CommitSeq } | undefined {
    const { segments, through } = this.options
    const last = through()
    const limit = toCommitSeq((last < this.to ? last : this.to) + 1n)
    for (const [index, { records, start }] of segments().entries()) {
      const written = toCommitSeq(start + BigInt(records))
      if (written <= this.at) continue
      if (start > this.at) this.at = start
      const end = written < limit ? written : limit
      return this.at < end ? { index, end } : undefined
    }
    return undefined
  }

  private read(index: number, end: CommitSeq): Effect.Effect<Piece, ReadError> {
    return Effect.gen({ self: this }, function*() {
      const segments = this.options.segments()
      const segment = segments[index]
      invariant(segment !== undefined, "a segment that was found is in the list")
      const { perSegment } = this.options
      const file = yield* this.open(segment)
      const base = offsetInSegment(segment.start, this.at)
      const count = Math.min(Number(end - this.at), this.buffer.length / markerBytes)
      const length = yield* file.read(this.buffer.subarray(0, count * markerBytes), base)
      const { issue } = this.walk.check(this.buffer.subarray(0, length), count, {
        base,
        seq: this.at,
        genesis: this.at === segment.start ? genesisIn(segments[index - 1], segment.id, perSegment) : "forbidden"
      })
      if (issue !== undefined) return yield* unreadable(segment.path, issue)
      this.at = toCommitSeq(this.at + BigInt(count))
      return { bytes: this.buffer, count }
    })
  }

  private open(segment: MarkerSegmentFile): Effect.Effect<VfsFile, ReadError> {
    return Effect.gen({ self: this }, function*() {
      if (this.opened?.segment.id === segment.id) return this.opened.file
      if (this.opened !== undefined) yield* Scope.close(this.opened.scope, Exit.void)
      const scope = yield* Scope.fork(this.scope)
      const file = yield* this.vfs.open(segment.path, { access: "read" }).pipe(Scope.provide(scope))
      this.opened = { segment, file, scope }
      const issue = yield* headerIssue(file, segment.id, this.options.perSegment)
      return issue === undefined ? file : yield* unreadable(segment.path, issue)
    })
  }
}

/** Records that a reading of everything takes at a time, if so many fit into memory. */
const wholeOf = (segments: ReadonlyArray<MarkerSegmentFile>): number =>
  segments.reduce((most, { records }) => Math.max(most, records), 0)

const markersOf = ({ bytes, count }: Piece): Array<Marker> => {
  const view = viewOf(bytes)
  return Array.from({ length: count }, (_, i) => markerAt(bytes, view, i * markerBytes))
}

/**
 * Calls `visitor` for the records from `from` to `through`, both included.
 *
 * @internal
 */
export const visitMarkers = (
  vfs: Vfs["Service"],
  options: {
    readonly segments: ReadonlyArray<MarkerSegmentFile>
    readonly from: CommitSeq
    readonly through: CommitSeq
    readonly perSegment: number
  },
  visitor: (marker: Marker) => void
): Effect.Effect<void, ReadError> =>
  Effect.scoped(Effect.gen(function*() {
    const { from, perSegment, segments, through } = options
    const source = { segments: () => segments, through: () => through, perSegment }
    const range = { from, to: through, piece: wholeOf(segments) }
    const cursor = new MarkerCursor(vfs, source, yield* Effect.scope, range)
    for (let piece = yield* cursor.next; piece !== undefined; piece = yield* cursor.next) {
      const { bytes, count } = piece
      const view = viewOf(bytes)
      for (let i = 0; i < count; i++) visitor(markerAt(bytes, view, i * markerBytes))
    }
  }))

/** Records that a range reads at a time. */
const rangePiece = 512

/** @internal */
export const makeReader = (vfs: Vfs["Service"], options: ReaderOptions): MarkerReader => {
  const { segments, through } = options

  const readWith = (scope: Scope.Scope, seq: CommitSeq): Effect.Effect<Marker | undefined, ReadError> =>
    Effect.suspend(() => {
      const range = { from: seq, to: seq, piece: 1 }
      const cursor = new MarkerCursor(vfs, options, scope, range)
      return Effect.map(cursor.next, (piece) => piece === undefined ? undefined : markersOf(piece)[0])
    })

  const read: MarkerReader["read"] = (seq) =>
    Effect.scoped(Effect.flatMap(Effect.scope, (scope) => readWith(scope, seq)))

  const range: MarkerReader["range"] = (from, to) =>
    Stream.scoped(Stream.fromPull(Effect.map(Effect.scope, (scope) => {
      const cursor = new MarkerCursor(vfs, options, scope, { from, to, piece: rangePiece })
      return Effect.flatMap(cursor.next, (piece) => {
        const markers = piece === undefined ? [] : markersOf(piece)
        return Arr.isReadonlyArrayNonEmpty(markers) ? Effect.succeed(markers) : Cause.done()
      })
    })))

  const sequenceAt: MarkerReader["sequenceAt"] = Effect.fnUntraced(function*(timeUnixNanos) {
    const readable = readableParts(segments(), through())
    const total = readable.reduce((sum, { records }) => sum + records, 0)
    const at = (index: number) =>
      Effect.flatMap(read(sequenceNumber(readable, index)), (marker) => {
        invariant(marker !== undefined, "what was durable is still there")
        return Effect.succeed(marker)
      })
    // The first record behind that time.
    let low = 0
    let high = total
    while (low < high) {
      const middle = Math.floor((low + high) / 2)
      if ((yield* at(middle)).timeUnixNanos <= timeUnixNanos) low = middle + 1
      else high = middle
    }
    // Genesis records are no commits. Between two of them there may be none.
    for (let index = low - 1; index >= 0; index--) {
      const marker = yield* at(index)
      if (!isGenesis(marker)) return marker.seq
    }
    return undefined
  })

  const verifyChain: MarkerReader["verifyChain"] = Effect.scoped(Effect.gen(function*() {
    const range = { from: toCommitSeq(0n), to: through(), piece: wholeOf(segments()) }
    const cursor = new MarkerCursor(vfs, options, yield* Effect.scope, range)
    let markers = 0
    for (let piece = yield* cursor.next; piece !== undefined; piece = yield* cursor.next) markers += piece.count
    return { markers }
  }))

  return { read, range, sequenceAt, verifyChain }
}

interface Part {
  readonly start: CommitSeq
  readonly records: number
}

/** Segments as far as they may be read. */
const readableParts = (segments: ReadonlyArray<MarkerSegmentFile>, through: CommitSeq): ReadonlyArray<Part> =>
  segments.flatMap(({ records, start }) => {
    const readable = Math.min(records, Number(through + 1n - start))
    return readable > 0 ? [{ start, records: readable }] : []
  })

/** The sequence of the record with a number, counted from 0 on over all segments. */
const sequenceNumber = (parts: ReadonlyArray<Part>, index: number): CommitSeq => {
  let left = index
  for (const { records, start } of parts) {
    if (left < records) return toCommitSeq(start + BigInt(left))
    left -= records
  }
  return toCommitSeq(0n)
}
