/**
 * Many append logs in one application, each opened when it is needed and closed when it has been idle.
 *
 * **When to use**
 *
 * Use for a log per tenant, per stream or per shard; and for a single one that an application wants to have opened again
 * by itself after it was poisoned.
 *
 * **Details**
 *
 * A key names a log. All who ask for it at the same time share one, which stays open while anybody has it and for
 * `idleTimeToLive` after that. A log that is poisoned is not handed out any more: who asks next waits until those who
 * still have it let go, then it is opened anew, and recovery decides about what was not acknowledged.
 *
 * **Gotchas**
 *
 * Whoever still has a poisoned log must let go of it before asking for the key again: it would wait for itself.
 *
 * **Example** (Going on after a failed write)
 *
 * ```ts
 * import { MemoryDisk } from "@tidemark/platform/MemoryDisk"
 * import * as MemoryVfs from "@tidemark/platform/MemoryVfs"
 * import { AppendLog } from "@tidemark/wal/AppendLog"
 * import { AppendLogMap } from "@tidemark/wal/AppendLogMap"
 * import { Effect, Layer } from "effect"
 *
 * const disk = MemoryDisk.make()
 * const logs = AppendLogMap.layer({ options: (tenant) => ({ directory: `/logs/${tenant}` }) }).pipe(
 *   Layer.provide(MemoryVfs.layerDisk(disk))
 * )
 *
 * // A unit of work has the log for as long as it takes. What it does has to bear being done twice: the record of the
 * // first attempt may be in the log all the same.
 * const audit = (tenant: string, event: string) =>
 *   AppendLog.use((log) => log.append(new TextEncoder().encode(event))).pipe(
 *     Effect.provide(AppendLogMap.get(tenant)),
 *     Effect.retry({ times: 3, while: (error) => error._tag === "WalPoisoned" })
 *   )
 *
 * const program = Effect.gen(function*() {
 *   yield* audit("acme", "created")
 *   // The next write fails once; the log is poisoned, opened again by the retry, and takes the record.
 *   const fault = disk.inject({ operation: "write", path: /\.tlog$/, fault: { kind: "error", code: "EIO" } })
 *   yield* audit("acme", "renamed")
 *   return fault.hits
 * })
 *
 * await Effect.runPromise(program.pipe(Effect.provide(logs))) // => 1
 * ```
 *
 * @since 0.1.0
 */
import type { FileLock } from "@tidemark/platform/FileLock"
import type { ProcessLiveness } from "@tidemark/platform/ProcessLiveness"
import type { Vfs } from "@tidemark/platform/Vfs"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import type { AppendLogOptions, OpenError } from "./AppendLog.ts"
import { AppendLog } from "./AppendLog.ts"
import { makeReopeningMap } from "./internal/reopeningMap.ts"

/**
 * @category models
 * @since 0.1.0
 */
export interface AppendLogMapOptions {
  /** What the log of a key is. Different keys need different directories. */
  readonly options: (key: string) => AppendLogOptions
  /** How long a log stays open that nobody has. Default 30 seconds. */
  readonly idleTimeToLive?: Duration.Input | undefined
}

/**
 * The defaults of {@link AppendLogMapOptions}.
 *
 * @category configuration
 * @since 0.1.0
 */
export const defaults = { idleTimeToLive: Duration.seconds(30) } as const

/**
 * The logs of an application.
 *
 * @category services
 * @since 0.1.0
 */
export class AppendLogMap extends Context.Service<AppendLogMap, {
  /** The log of a key, opened if nobody has it; kept open until the scope closes. */
  readonly open: (key: string) => Effect.Effect<AppendLog["Service"], OpenError, Scope.Scope>
  /** {@link open} as a layer. */
  readonly get: (key: string) => Layer.Layer<AppendLog, OpenError>
  /** Closes the log of a key as soon as nobody has it; who asks from now on gets another one, opened after that. */
  readonly invalidate: (key: string) => Effect.Effect<void>
}>()("@tidemark/wal/AppendLogMap") {
  /** The log of a key, for a program that has the map in its environment. */
  static readonly get = (key: string): Layer.Layer<AppendLog, OpenError, AppendLogMap> =>
    Layer.unwrap(AppendLogMap.useSync((map) => map.get(key)))

  static readonly layer = (
    options: AppendLogMapOptions
  ): Layer.Layer<AppendLogMap, never, Vfs | FileLock | ProcessLiveness> => Layer.effect(AppendLogMap, make(options))
}

const make = Effect.fnUntraced(function*(
  { idleTimeToLive, options }: AppendLogMapOptions
): Effect.fn.Return<AppendLogMap["Service"], never, Vfs | FileLock | ProcessLiveness | Scope.Scope> {
  const { invalidate, open } = yield* makeReopeningMap({
    open: (key) => AppendLog.open(options(key)),
    hasEnded: (log) => log.ended() !== undefined,
    idleTimeToLive: idleTimeToLive ?? defaults.idleTimeToLive
  })
  return { open, get: (key) => Layer.effect(AppendLog, open(key)), invalidate }
})
