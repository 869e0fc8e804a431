/**
 * What a log tells its readers: records from its files, changes of its watermarks.
 */
import type { Lsn } from "@tidemark/core/Scalars"
import { toLsn } from "@tidemark/core/Scalars"
import * as Arr from "effect/Array"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import type { AppendLog, LogRecord, LogWatermarks, ReadError } from "../AppendLog.ts"
import { LsnNotAFrame } from "../AppendLogErrors.ts"
import type { GroupCommit, LogEnded } from "../GroupCommit.ts"
import { LsnNotReserved } from "../LogErrors.ts"
import type { ReaderParts } from "./appendLogReader.ts"
import { AppendLogReader, recordBlockBytes, streamBlockBytes } from "./appendLogReader.ts"
import type { ChangeSignal } from "./changeSignal.ts"

/** @internal */
export interface StreamParts extends ReaderParts {
  readonly engine: GroupCommit
  readonly watermarks: () => LogWatermarks
  /** Notified when the log is synced, truncated or over. */
  readonly progress: ChangeSignal
  /** Notified when something was handed over. */
  readonly handOvers: ChangeSignal
  /** Why nothing more can be read, once the log is closed and its lock is gone. */
  readonly closed: () => LogEnded | undefined
  /** Why nothing more will become durable. */
  readonly over: () => LogEnded | undefined
}

/** @internal */
export const makeStreams = (
  parts: StreamParts
): Pick<AppendLog["Service"], "read" | "stream" | "watermarkChanges"> => {
  const { closed, directory, durable, engine, handOvers, over, progress, segments, watermarks } = parts

  const failWhenClosed: Effect.Effect<void, LogEnded> = Effect.suspend(() => {
    const ended = closed()
    return ended === undefined ? Effect.void : Effect.fail(ended)
  })

  const refuse = (from: Lsn): Effect.Effect<void, LogEnded | LsnNotReserved> =>
    Effect.suspend((): Effect.Effect<void, LogEnded | LsnNotReserved> => {
      const { reserved } = engine.watermarks()
      return from > reserved
        ? Effect.fail(new LsnNotReserved({ log: directory, lsn: from, reserved }))
        : failWhenClosed
    })

  const read: AppendLog["Service"]["read"] = (start) =>
    Effect.scoped(Effect.gen(function*() {
      yield* refuse(start)
      // Behind a record there is always something, if only the mark at the end of its batch.
      if (durable() <= start) yield* engine.commitAtLeast(toLsn(start + 1), "durable")
      const reader = new AppendLogReader(parts, yield* Effect.scope, start, recordBlockBytes)
      const [record] = yield* reader.next
      if (record === undefined || record.start !== start) return yield* new LsnNotAFrame({ log: directory, lsn: start })
      return record
    }))

  const stream: AppendLog["Service"]["stream"] = (options) =>
    Stream.scoped(Stream.fromPull(Effect.gen(function*() {
      const from = options?.from ?? segments.firstKept
      yield* refuse(from)
      const reader = new AppendLogReader(parts, yield* Effect.scope, from, streamBlockBytes)
      const nextRecords: Effect.Effect<Arr.NonEmptyReadonlyArray<LogRecord>, ReadError | Cause.Done> = Effect.gen(
        function*() {
          for (;;) {
            yield* failWhenClosed
            if (!reader.isCaughtUp) {
              const records = yield* reader.next
              if (Arr.isReadonlyArrayNonEmpty(records)) return records
            } else if (options?.follow !== true) {
              return yield* Cause.done()
            } else {
              const ended = over()
              if (ended !== undefined) return yield* Effect.fail(ended)
              yield* progress.wait(() => !reader.isCaughtUp || over() !== undefined)
            }
          }
        }
      )
      return nextRecords
    })))

  const isNews = (before: LogWatermarks, now: LogWatermarks) =>
    now.firstKept !== before.firstKept || now.durable !== before.durable || now.written !== before.written

  /** Waits until something was written, synced or truncated since `before`, or the log is over. */
  const waitForNews = (before: LogWatermarks): Effect.Effect<void, LogEnded> => {
    const hasChanged = () => isNews(before, watermarks()) || over() !== undefined
    const written = Effect.suspend(() => {
      const { reserved, written } = watermarks()
      // The engine tells when `written` has come so far; it can, once something is handed over.
      return reserved === written
        ? handOvers.wait(() => hasChanged() || watermarks().reserved !== written)
        : Effect.catchTag(engine.commitAtLeast(reserved, "written"), "LsnNotReserved", Effect.die)
    })
    return Effect.raceFirst(progress.wait(hasChanged), written)
  }

  const watermarkChanges: AppendLog["Service"]["watermarkChanges"] = Stream.fromPull(Effect.sync(() => {
    let told: LogWatermarks | undefined
    return Effect.gen(function*() {
      for (;;) {
        const now = watermarks()
        if (told === undefined || isNews(told, now)) {
          told = now
          return Arr.of(now)
        }
        const ended = over()
        if (ended !== undefined) return yield* Effect.fail(ended)
        yield* waitForNews(told)
      }
    })
  }))

  return { read, stream, watermarkChanges }
}
