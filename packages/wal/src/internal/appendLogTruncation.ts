/**
 * Letting go of the front of a log, and beginning a new segment when asked to (LOG-08).
 *
 * Segments are removed from the front, one after another, each removal durable before the next: whatever a crash keeps
 * of that, what is left is a log without a gap. Before its file goes a segment has left the list, so that no reader
 * begins to read it.
 */
import type { Lsn } from "@tidemark/core/Scalars"
import { toLsn } from "@tidemark/core/Scalars"
import type { Vfs } from "@tidemark/platform/Vfs"
import type { VfsError } from "@tidemark/platform/VfsError"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Semaphore from "effect/Semaphore"
import type { AppendLog } from "../AppendLog.ts"
import { commitFrameBytes } from "../AppendLogFormat.ts"
import type { GroupCommit, LogEnded } from "../GroupCommit.ts"
import type { LsnNotReserved } from "../LogErrors.ts"
import type { AppendLogSegments, Segment } from "./appendLogSegments.ts"
import type { AppendLogWriter } from "./appendLogWriter.ts"

/** @internal */
export interface TruncationParts {
  readonly vfs: Vfs["Service"]
  readonly directory: string
  readonly engine: GroupCommit
  readonly segments: AppendLogSegments
  readonly writer: AppendLogWriter
  /** Called when the log begins somewhere else. */
  readonly onTruncated: () => void
}

/** @internal */
export const makeTruncation = (
  { directory, engine, onTruncated, segments, vfs, writer }: TruncationParts
): Pick<AppendLog["Service"], "truncateBefore" | "rotate"> & {
  /** Waits until nobody removes files any more. */
  readonly awaitTruncation: Effect.Effect<void>
} => {
  const oneAtATime = Semaphore.makeUnsafe(1)
  /** Segments that are out of the log and whose files are still there. */
  const retired: Array<Segment> = []

  /** What fails here leaves the disk in a state that only recovery can tell: the log takes nothing any more. */
  const orPoison = <A>(effect: Effect.Effect<A, VfsError>): Effect.Effect<A, LogEnded> =>
    Effect.catch(effect, (error) =>
      Effect.suspend(() => {
        engine.poison(Cause.fail(error))
        return failEnded
      }))

  const failEnded: Effect.Effect<never, LogEnded> = Effect.suspend(() => {
    const ended = engine.ended()
    return ended === undefined ? Effect.die(new Error("a poisoned log has ended")) : Effect.fail(ended)
  })

  const failWhenEnded: Effect.Effect<void, LogEnded> = Effect.suspend(() => {
    const ended = engine.ended()
    return ended === undefined ? Effect.void : Effect.fail(ended)
  })

  /** Somebody else may have poisoned the log between two steps: then nothing of it is touched any more. */
  const failWhenPoisoned: Effect.Effect<void, LogEnded> = Effect.suspend(() => {
    const ended = engine.ended()
    return ended?._tag === "WalPoisoned" ? Effect.fail(ended) : Effect.void
  })

  /** Begins a segment where the log ends, while nobody else writes. Answers where it starts, if it was still wanted. */
  const rotateWhen = (isWanted: () => boolean): Effect.Effect<Lsn | undefined, LogEnded | VfsError> =>
    engine.quiesce(
      Effect.gen(function*() {
        if (!isWanted()) return undefined
        const { reserved } = engine.watermarks()
        if (segments.last.startLsn === reserved) return reserved
        yield* orPoison(segments.settle)
        const made = yield* segments.makeNext(reserved)
        yield* failWhenPoisoned
        yield* orPoison(segments.enter(made))
        return reserved
      }).pipe(Effect.uninterruptible)
    )

  const removeRetired: Effect.Effect<void, LogEnded | VfsError> = Effect.gen(function*() {
    for (let segment = retired[0]; segment !== undefined; segment = retired[0]) {
      yield* failWhenPoisoned
      yield* Effect.catchIf(vfs.remove(segment.path), (error) => error.code === "ENOENT", () => Effect.void)
      // A removal that was lost here could come back behind one that was not, with a gap between them.
      yield* orPoison(vfs.syncDirectory(directory))
      retired.shift()
    }
  }).pipe(Effect.uninterruptible)

  const removeUpTo = (limit: Lsn): Effect.Effect<void, LogEnded | VfsError> =>
    Effect.suspend(() => {
      for (let first = segments.retireFirst(limit); first !== undefined; first = segments.retireFirst(limit)) {
        retired.push(first)
      }
      onTruncated()
      return removeRetired
    })

  const truncateBefore: AppendLog["Service"]["truncateBefore"] = Effect.fnUntraced(
    function*(lsn: Lsn): Effect.fn.Return<Lsn, LsnNotReserved | LogEnded | VfsError> {
      yield* failWhenEnded
      // Refused when it was never reserved. What was only written is not let go of: the log never begins behind `durable`.
      yield* engine.commitAtLeast(lsn, "durable")
      // A segment ends with the mark of its last batch: if nothing else lies behind `lsn`, it holds nothing of it.
      yield* removeUpTo(toLsn(lsn + commitFrameBytes))
      const isEverything = () => lsn >= writer.lastRecordEnd
      // Last, because the new segment needs room, and the disk may be full.
      const emptyFrom = isEverything() ? yield* rotateWhen(isEverything) : undefined
      if (emptyFrom !== undefined) yield* removeUpTo(emptyFrom)
      return segments.firstKept
    },
    (truncate) => oneAtATime.withPermit(truncate)
  )

  return {
    truncateBefore,
    rotate: Effect.asVoid(oneAtATime.withPermit(rotateWhen(() => true))),
    awaitTruncation: oneAtATime.withPermit(Effect.void)
  }
}
