/**
 * The store of Effect's `PersistedQueue` on an append log: what was offered is not lost, what was being processed when
 * the process died is delivered again.
 *
 * **When to use**
 *
 * Use for background jobs, outboxes and retries of an application that is one process. Provide {@link layerStore} (or
 * {@link layerStoreDirectory}) to `PersistedQueue.layer`.
 *
 * **Details**
 *
 * 1. `offer` is done when the element is durable, and nobody takes it earlier. Offers that come at the same time share
 *    one sync. An id that is known is not added again.
 * 2. `take` claims an element, and its handler runs when the claim is durable: an attempt counts also when the process
 *    dies. Elements come in the order in which they became ready.
 * 3. When the scope of a take closes, its outcome is durable before the scope has closed.
 * 4. After a crash every element that was being processed is ready again, where it stood before, with the attempt
 *    counted; one that had no attempt left is marked as failed. Nobody else can hold a claim: the log has one process.
 * 5. What is completed keeps its id until `cleanup` when the id was the caller's own, and is forgotten when it was
 *    generated. What failed is kept with its payload until `cleanup` is given a `failedTimeToLive`.
 *
 * Times come from the clock that the layer is built with.
 *
 * **Gotchas**
 *
 * All elements are kept in memory. An element above `maxRecordBytes` of the log (16 MiB) is refused with a
 * `PersistedQueueError` whose cause is `RecordTooLarge`. When the log has ended, everything fails with the reason as its
 * cause. An outcome that cannot be written then is a defect when the handler succeeded, because its element will be
 * delivered again, and a warning in the log when it failed anyway.
 *
 * @since 0.1.0
 */
import { invariant } from "@tidemark/core/Invariant"
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import type * as Config from "effect/Config"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import { PersistedQueueError, PersistedQueueStore } from "effect/persistence/PersistedQueue"
import * as Predicate from "effect/Predicate"
import type * as Scope from "effect/Scope"
import { AppendLog } from "./AppendLog.ts"
import type { Decision } from "./internal/loggedState.ts"
import { overConfig, overDirectory, stateLogOptions } from "./internal/logStateLayers.ts"
import { openStateLog } from "./internal/openStateLog.ts"
import { QueueSchedule } from "./internal/queueSchedule.ts"
import { QueueState, type StoredElement } from "./internal/queueState.ts"
import type {
  CommitError,
  LogStateDirectoryOptions,
  LogStateOptions,
  OpenDirectoryError,
  OpenError,
  Platform
} from "./LogState.ts"
import * as PersistedQueueFormat from "./PersistedQueueFormat.ts"

type QueueCommand = PersistedQueueFormat.QueueCommand
type TakeOptions = Parameters<PersistedQueueStore["Service"]["take"]>[0]

/** A timer further away than this is set again when it fires: timers of the platform end after 24 days. */
const maxSleepMillis = 60 * 60 * 1000

/**
 * Opens a store of queues over the log in the environment, which is the store's alone.
 *
 * @category constructors
 * @since 0.1.0
 */
export const makeStore = Effect.fnUntraced(function*(
  options?: LogStateOptions
): Effect.fn.Return<PersistedQueueStore["Service"], OpenError, AppendLog | Scope.Scope> {
  const log = yield* AppendLog
  const clock = yield* Clock.Clock
  const stateLog = yield* openStateLog(log, definition, stateLogOptions(options))
  const { state } = stateLog

  const schedules = new Map<string, QueueSchedule>()
  const scheduleOf = (queue: string): QueueSchedule => {
    const schedule = schedules.get(queue) ?? new QueueSchedule()
    schedules.set(queue, schedule)
    return schedule
  }
  stateLog.onEnded = () => {
    for (const { news } of schedules.values()) news.openUnsafe()
  }

  const transact = <A>(message: string, decide: () => Decision<QueueCommand, A>) =>
    Effect.mapError(stateLog.transact(decide), (cause) => toError(message, cause))

  const offer: PersistedQueueStore["Service"]["offer"] = ({ delay, element, id, isCustomId, name }) =>
    Effect.flatMap(toPayload(element), (payload) =>
      transact("the element was not offered", () => {
        if (state.get(name, id) !== undefined) return { type: "answer", answer: undefined }
        const now = clock.currentTimeMillisUnsafe()
        return {
          type: "commit",
          commands: [{
            type: "put",
            element: {
              queue: name,
              id,
              isCustomId,
              state: "pending",
              attempts: 0,
              maxAttempts: 0,
              visibleAt: delay === undefined ? now : now + Duration.toMillis(delay),
              changedAt: now,
              payload
            }
          }],
          // When another offer of this id is on its way, this one changes nothing.
          answer: () => {}
        }
      }))

  /** Chooses and claims in one step; `undefined` when nothing is ready. */
  const claim = ({ maxAttempts, name }: TakeOptions) =>
    transact("no element was taken", (): Decision<QueueCommand, StoredElement | undefined> => {
      const schedule = scheduleOf(name)
      // Closed before looking, so that what comes later opens it again.
      schedule.news.closeUnsafe()
      const chosen = schedule.choose(clock.currentTimeMillisUnsafe(), maxAttempts)
      if (chosen === undefined) return { type: "answer", answer: undefined }
      // There may be more, for a taker that has looked before it came and waits from now on.
      schedule.news.openUnsafe()
      return {
        type: "commit",
        commands: [{ type: "claim", queue: name, id: chosen.id, maxAttempts }],
        answer: () => {
          const claimed = state.get(name, chosen.id)
          invariant(claimed?.state === "processing", "an element that was claimed is being processed")
          return claimed
        }
      }
    })

  const awaitNews = (name: string) =>
    Effect.suspend(() => {
      const { news, nextVisibleAt } = scheduleOf(name)
      if (nextVisibleAt === Number.POSITIVE_INFINITY) return news.await
      const waitMillis = Math.min(nextVisibleAt - clock.currentTimeMillisUnsafe(), maxSleepMillis)
      return Effect.race(news.await, Effect.sleep(Duration.millis(waitMillis)))
    })

  const outcomeOf = Effect.fnUntraced(function*(
    element: StoredElement,
    { maxAttempts, retryDelay }: TakeOptions,
    exit: Exit.Exit<unknown, unknown>
  ): Effect.fn.Return<QueueCommand> {
    const target = { queue: element.queue, id: element.id }
    const now = clock.currentTimeMillisUnsafe()
    if (exit._tag === "Success") return { type: "complete", at: now, ...target }
    if (hasDeadLetter(exit.cause)) return { type: "fail", at: now, ...target }
    if (Cause.hasInterruptsOnly(exit.cause)) return { type: "release", ...target }
    if (element.attempts >= maxAttempts) return { type: "fail", at: now, ...target }
    return { type: "retry", visibleAt: now + Duration.toMillis(yield* retryDelay(element.attempts)), ...target }
  })

  const settle = (element: StoredElement, options: TakeOptions, exit: Exit.Exit<unknown, unknown>) =>
    outcomeOf(element, options, exit).pipe(
      Effect.flatMap((command) =>
        transact("the outcome of an element was not written, it will be delivered again", () => ({
          type: "commit",
          commands: [command],
          answer: () => {}
        }))
      ),
      Effect.catch((error) =>
        exit._tag === "Success" ? Effect.die(error) : Effect.logWarning(error.message, error.cause)
      )
    )

  const take: PersistedQueueStore["Service"]["take"] = (options) =>
    Effect.uninterruptibleMask((restore) =>
      Effect.gen(function*() {
        let element = yield* claim(options)
        while (element === undefined) {
          yield* restore(awaitNews(options.name))
          element = yield* claim(options)
        }
        const claimed = element
        yield* Effect.addFinalizer((exit) => settle(claimed, options, exit))
        return { id: claimed.id, attempts: claimed.attempts, element: fromPayload(claimed.payload) }
      })
    )

  const cleanup: PersistedQueueStore["Service"]["cleanup"] = ({ failedTimeToLive, timeToLive }) =>
    transact("nothing was cleaned up", () => {
      const now = clock.currentTimeMillisUnsafe()
      return {
        type: "commit",
        commands: [{
          type: "cleanup",
          completedUpTo: now - Duration.toMillis(timeToLive),
          failedUpTo: failedTimeToLive === undefined
            ? Number.NEGATIVE_INFINITY
            : now - Duration.toMillis(failedTimeToLive)
        }],
        answer: () => {}
      }
    })

  const exhausted = state.releaseProcessing()
  for (const element of [...state.elements()].sort((a, b) => a.order - b.order)) {
    if (element.state === "pending") scheduleOf(element.queue).add(element)
  }
  state.onPending = (element) => scheduleOf(element.queue).add(element)
  if (exhausted.length > 0) {
    const at = clock.currentTimeMillisUnsafe()
    yield* stateLog.transact(() => ({
      type: "commit",
      commands: exhausted.map(({ id, queue }): QueueCommand => ({ type: "fail", at, queue, id })),
      answer: () => {}
    }))
  }

  return PersistedQueueStore.of({ offer, take, cleanup })
})

/**
 * The store over the log in the environment. One adapter per log.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerStore = (options?: LogStateOptions): Layer.Layer<PersistedQueueStore, OpenError, AppendLog> =>
  Layer.effect(PersistedQueueStore, makeStore(options))

/**
 * The store over a log of its own, which lives in a directory.
 *
 * **Example** (Sending mails that survive a crash)
 *
 * ```ts
 * import * as NodeVfs from "@tidemark/platform/NodeVfs"
 * import * as LogPersistedQueue from "@tidemark/wal/LogPersistedQueue"
 * import { Effect, Layer, Schema } from "effect"
 * import { PersistedQueue } from "effect/persistence"
 *
 * export const Queues = PersistedQueue.layer.pipe(
 *   Layer.provide(LogPersistedQueue.layerStoreDirectory({ directory: "./data/queues" })),
 *   Layer.provide(NodeVfs.layer)
 * )
 *
 * export const makeMails = PersistedQueue.make({ name: "mails", schema: Schema.Struct({ to: Schema.String }) })
 *
 * export const worker = (send: (to: string) => Effect.Effect<void>) =>
 *   Effect.flatMap(makeMails, (mails) => Effect.forever(mails.take(({ to }) => send(to))))
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layerStoreDirectory = (
  options: LogStateDirectoryOptions
): Layer.Layer<PersistedQueueStore, OpenDirectoryError, Platform> => overDirectory(layerStore, options)

/**
 * {@link layerStoreDirectory} with options from the configuration: `TIDEMARK_QUEUE_DIRECTORY`, and with the same prefix
 * `_SNAPSHOT_RATIO`, `_SNAPSHOT_MIN_BYTES`, `_MAX_QUEUED_BYTES`, `_SEGMENT_BYTES`, `_MAX_RECORD_BYTES`.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerStoreConfig: Layer.Layer<PersistedQueueStore, OpenDirectoryError | Config.ConfigError, Platform> =
  overConfig(layerStore, "TIDEMARK_QUEUE")

const definition = {
  kind: "QUEU",
  encode: PersistedQueueFormat.encode,
  decode: PersistedQueueFormat.decode,
  empty: () => new QueueState()
}

/**
 * The sign by which `PersistedQueue` tells its store that an element can never be processed, because its payload does
 * not fit the schema. It has no name in the interface; the contract suite notices when it changes.
 */
const hasDeadLetter = (cause: Cause.Cause<unknown>): boolean =>
  cause.reasons.some((reason) =>
    Cause.isFailReason(reason) &&
    Predicate.isTagged(reason.error, "~effect/persistence/PersistedQueue/DeadLetter")
  )

/** `undefined` is what JSON has no word for. */
const toPayload = (element: unknown): Effect.Effect<string | undefined, PersistedQueueError> =>
  Effect.try({
    // The type of `stringify` says that it always answers a string; it does not for `undefined` and functions.
    try: () => JSON.stringify(element) as string | undefined,
    catch: (cause) => new PersistedQueueError({ message: "the element is not JSON", cause })
  })

const fromPayload = (payload: string | undefined): unknown => payload === undefined ? undefined : JSON.parse(payload)

const toError = (message: string, cause: CommitError) =>
  new PersistedQueueError({ message: `${message}: ${cause.message}`, cause })
