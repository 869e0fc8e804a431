/**
 * Logs by key: shared while somebody has them, closed when they have been idle, opened anew after they ended.
 *
 * 1. Of one key at most one log is open at a time: a new one waits until the one before it is closed, because that has
 *    the kernel's lock until then.
 * 2. A log that has ended is not handed out any more.
 * 3. A failure to open is not kept: who asks next tries anew.
 */
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as RcMap from "effect/RcMap"
import type * as Scope from "effect/Scope"
import * as Semaphore from "effect/Semaphore"

/** @internal */
export interface ReopeningMapOptions<Log, E, R> {
  readonly open: (key: string) => Effect.Effect<Log, E, R | Scope.Scope>
  readonly hasEnded: (log: Log) => boolean
  readonly idleTimeToLive: Duration.Input
}

/** @internal */
export interface ReopeningMap<Log, E> {
  readonly open: (key: string) => Effect.Effect<Log, E, Scope.Scope>
  readonly invalidate: (key: string) => Effect.Effect<void>
}

/** One key: the right to have its log open, and the log. */
interface Entry<Log> {
  readonly turn: Semaphore.Semaphore
  users: number
  current: Log | undefined
}

/** @internal */
export const makeReopeningMap = Effect.fnUntraced(function*<Log, E, R>(
  options: ReopeningMapOptions<Log, E, R>
): Effect.fn.Return<ReopeningMap<Log, E>, never, R | Scope.Scope> {
  const entries = new Map<string, Entry<Log>>()

  const enter = (key: string) =>
    Effect.acquireRelease(
      Effect.sync(() => {
        const entry: Entry<Log> = entries.get(key) ?? { turn: Semaphore.makeUnsafe(1), users: 0, current: undefined }
        entries.set(key, entry)
        entry.users++
        return entry
      }),
      (entry) =>
        Effect.sync(() => {
          entry.users--
          if (entry.users === 0) entries.delete(key)
        })
    )

  const lookup = Effect.fnUntraced(function*(key: string): Effect.fn.Return<Log, E, R | Scope.Scope> {
    const entry = yield* enter(key)
    // The one before may still be on its way out (1).
    yield* Semaphore.takeScoped(entry.turn, 1)
    // A map of resources keeps failures, too (3).
    const log = yield* Effect.onError(options.open(key), () => RcMap.invalidate(logs, key))
    yield* Effect.acquireRelease(
      Effect.sync(() => {
        entry.current = log
      }),
      () =>
        Effect.sync(() => {
          if (entry.current === log) entry.current = undefined
        })
    )
    return log
  })

  const logs: RcMap.RcMap<string, Log, E> = yield* RcMap.make({
    lookup,
    idleTimeToLive: options.idleTimeToLive
  })

  return {
    open: (key) =>
      Effect.suspend(() => {
        const entry = entries.get(key)
        if (entry?.current === undefined || !options.hasEnded(entry.current)) return RcMap.get(logs, key)
        // Once: who asks next must not take away the one that is waiting to be opened now.
        entry.current = undefined
        return Effect.andThen(RcMap.invalidate(logs, key), RcMap.get(logs, key))
      }),
    invalidate: (key) => RcMap.invalidate(logs, key)
  }
})
