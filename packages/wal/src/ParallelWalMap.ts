/**
 * One parallel WAL per database path in a process (PW-17): who asks twice for the same path gets the same log.
 *
 * **When to use**
 *
 * Use where the databases of an application are not known when its layers are put together: one per tenant, one per
 * document. A program with one database takes `ParallelWal.layer`.
 *
 * **Details**
 *
 * A log is opened when somebody asks for it, and closed, drained and checkpointed, when nobody has had it for
 * `idleTimeToLive`, when it is removed, or when the map goes. Paths are compared after `.`, `..` and repeated slashes are
 * taken out; links are not followed, and the lock on the database refuses a second log behind another name of it. A log
 * that is poisoned is not handed out any more: who asks next waits until those who still have it let go, then it is opened
 * anew.
 *
 * **Example** (A log per tenant)
 *
 * ```ts
 * import { MemoryVfs } from "@tidemark/platform"
 * import { ParallelWal, ParallelWalMap } from "@tidemark/wal"
 * import { Effect, Layer } from "effect"
 *
 * const logs = ParallelWalMap.ParallelWalMap.layer({ options: () => ({ create: {} }) }).pipe(
 *   Layer.provide(MemoryVfs.layer)
 * )
 *
 * const pageSize = (tenant: string) =>
 *   ParallelWal.ParallelWal.use((log) => Effect.succeed(log.pageSize)).pipe(
 *     Effect.provide(ParallelWalMap.ParallelWalMap.get(`/${tenant}.db`))
 *   )
 *
 * await Effect.runPromise(pageSize("acme").pipe(Effect.provide(logs))) // => 4096
 * ```
 *
 * @since 0.1.0
 */
import type { FileLock } from "@tidemark/platform/FileLock"
import type { Vfs } from "@tidemark/platform/Vfs"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import { CommitLog } from "./CommitLog.ts"
import { makeReopeningMap } from "./internal/reopeningMap.ts"
import type { OpenParallelError, ParallelWal, ParallelWalOptions } from "./ParallelWal.ts"
import { layer } from "./ParallelWal.ts"

/**
 * @category models
 * @since 0.1.0
 */
export interface ParallelWalMapOptions {
  /** What the log of a database is. Default: the defaults of `ParallelWal.layer`. */
  readonly options?: ((database: string) => Omit<ParallelWalOptions, "database">) | undefined
  /** How long a log stays open that nobody has. Default 30 seconds. */
  readonly idleTimeToLive?: Duration.Input | undefined
}

/**
 * The defaults of {@link ParallelWalMapOptions}.
 *
 * @category configuration
 * @since 0.1.0
 */
export const defaults = { idleTimeToLive: Duration.seconds(30) } as const

/**
 * The parallel WALs of a process.
 *
 * @category services
 * @since 0.1.0
 */
export class ParallelWalMap extends Context.Service<ParallelWalMap, {
  /** The log of a database; open for as long as the layer is in use. */
  readonly get: (database: string) => Layer.Layer<ParallelWal | CommitLog, OpenParallelError>
  /** Closes the log of a database as soon as nobody has it; who asks from now on gets another one, opened after that. */
  readonly remove: (database: string) => Effect.Effect<void>
}>()("@tidemark/wal/ParallelWalMap") {
  /** The log of a database, for a program that has the map in its environment. */
  static readonly get = (database: string): Layer.Layer<ParallelWal | CommitLog, OpenParallelError, ParallelWalMap> =>
    Layer.unwrap(ParallelWalMap.useSync((map) => map.get(database)))

  static readonly layer = (
    options: ParallelWalMapOptions = {}
  ): Layer.Layer<ParallelWalMap, never, Vfs | FileLock> => Layer.effect(ParallelWalMap, make(options))
}

const make = Effect.fnUntraced(function*(
  { idleTimeToLive, options }: ParallelWalMapOptions
): Effect.fn.Return<ParallelWalMap["Service"], never, Vfs | FileLock | Scope.Scope> {
  const logs = yield* makeReopeningMap({
    // Each in a memo map of its own: a layer is never shared between one opening and the next.
    open: (database) => Layer.build(layer({ ...options?.(database), database })),
    hasEnded: (context) => Context.get(context, CommitLog).ended() !== undefined,
    idleTimeToLive: idleTimeToLive ?? defaults.idleTimeToLive
  })
  return {
    get: (database) => Layer.effectContext(logs.open(normalized(database))),
    remove: (database) => logs.invalidate(normalized(database))
  }
})

/** The same name for the same path, without looking at the disk. */
const normalized = (path: string): string => {
  const kept: Array<string> = []
  for (const part of path.split("/")) {
    if (part === "" || part === ".") continue
    if (part === ".." && kept.length > 0 && kept.at(-1) !== "..") kept.pop()
    else if (part !== ".." || !path.startsWith("/")) kept.push(part)
  }
  return (path.startsWith("/") ? "/" : "") + kept.join("/")
}
