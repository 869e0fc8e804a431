/** An engine over a recording sink, and small steps that the tests of the engine share. */
import { assert } from "@effect/vitest"
import type { Lsn } from "@tidemark/core/Scalars"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import type * as Scope from "effect/Scope"
import * as GroupCommit from "../../src/GroupCommit.ts"
import type { EmptyRecord, LsnNotReserved, RecordTooLarge } from "../../src/LogErrors.ts"
import type { RecordingSinkOptions } from "./recordingSink.ts"
import { RecordingSink } from "./recordingSink.ts"

export interface Recorded {
  readonly log: GroupCommit.GroupCommit
  readonly disk: RecordingSink
}

/** Starts an engine; when the test's scope closes the sink's promises are checked once more. */
export const start = (
  sinkOptions: RecordingSinkOptions = {},
  options: GroupCommit.GroupCommitOptions = {}
): Effect.Effect<Recorded, never, Scope.Scope> =>
  Effect.gen(function*() {
    const disk = new RecordingSink({ ...sinkOptions, initialLsn: options.initialLsn })
    yield* Effect.addFinalizer(() => Effect.sync(() => assert.deepStrictEqual(disk.violations, [])))
    const log = yield* GroupCommit.make(disk.sink, options)
    disk.engine = log
    yield* Effect.addFinalizer(() => Effect.sync(disk.releaseAll))
    return { log, disk }
  })

/** Hands over and waits; answers the position behind the bytes. */
export const commit = (
  log: GroupCommit.GroupCommit,
  bytes: Uint8Array,
  mode: GroupCommit.CommitMode = "durable"
): Effect.Effect<Lsn, GroupCommit.LogEnded | LsnNotReserved | EmptyRecord | RecordTooLarge> =>
  Effect.flatMap(log.reserveAndEnqueue(bytes), (lsn) => Effect.as(log.commitAtLeast(lsn, mode), lsn))

/** Turns of the event loop, enough for everything that can go on without a held call to go on. */
export const settle = Effect.repeat(Effect.yieldNow, { times: 12 })

export const isWaiting = (fiber: Fiber.Fiber<unknown, unknown>): boolean => fiber.pollUnsafe() === undefined

/** The tag of the typed error that an effect fails with, or `"success"`, or `"defect"`. */
export const outcomeOf = <A, E extends { readonly _tag: string }, R>(
  effect: Effect.Effect<A, E, R>
): Effect.Effect<string, never, R> =>
  Effect.catchCause(
    Effect.match(effect, { onFailure: (error) => error._tag, onSuccess: () => "success" }),
    () => Effect.succeed("defect")
  )

/** What an effect is already, when it needs no fiber to be known. */
export const immediate = <A, E>(effect: Effect.Effect<A, E>): Exit.Exit<A, E> | undefined =>
  Exit.isExit(effect) ? effect as Exit.Exit<A, E> : undefined
