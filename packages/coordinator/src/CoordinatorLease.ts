/**
 * Who may append: at any time at most one coordinator of a database (CO-07, CO-08).
 *
 * **Details**
 *
 * Invariants:
 *
 * 1. At most one grant of a lease is current.
 * 2. Every acquisition has a larger generation than all before it: the fencing token of what its holder does.
 * 3. A grant that is not current any more never becomes current again. Its holder asks `isCurrent` in the same
 *    synchronous step in which it hands a commit to the log.
 *
 * What decides who holds a lease is different in the two layers. `layerFile`: the kernel's lock on the lease file, and
 * that alone. It cannot expire, a process that hangs keeps it, and one that dies loses it at once. The times in the
 * file only shape messages. Without kernel locks it refuses (`FileLockUnavailable`), as the log itself does.
 * `layerMemory`: a table in this process, in which a lease that was not renewed in time may be taken over.
 *
 * @since 0.1.0
 */
import { invariant } from "@tidemark/core/Invariant"
import { FileLock, type FileLockUnavailable } from "@tidemark/platform/FileLock"
import { type ProcessIdentity, ProcessLiveness } from "@tidemark/platform/ProcessLiveness"
import { Vfs } from "@tidemark/platform/Vfs"
import type { VfsError } from "@tidemark/platform/VfsError"
import type { Lease } from "@tidemark/wal/LeaseFormat"
import * as Config from "effect/Config"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import type { LeaseHeld, LeaseNotHeld } from "./CoordinatorErrors.ts"
import { makeFileLease } from "./internal/fileLease.ts"
import { type LeaseRegistry, makeLeaseRegistry, makeMemoryLease } from "./internal/memoryLease.ts"

/**
 * The lease, as its holder has it.
 *
 * @category models
 * @since 0.1.0
 */
export interface LeaseGrant {
  /** The database, or the name of the lease in memory. */
  readonly name: string
  /** Larger than that of every grant before. */
  readonly generation: bigint
  /**
   * Whether this grant is still the lease, now. False for good after its release, its loss and a forced release, and in
   * `layerMemory` from the moment on at which it expires without having been renewed.
   */
  readonly isCurrent: () => boolean
}

/**
 * The lease of one database.
 *
 * @category services
 * @since 0.1.0
 */
export class CoordinatorLease extends Context.Service<CoordinatorLease, {
  /** The database, or the name of the lease in memory. */
  readonly name: string

  /**
   * Takes the lease now, or fails with `LeaseHeld`, which says who has it. It is renewed by a fiber, and released when
   * the scope closes.
   */
  readonly acquire: Effect.Effect<LeaseGrant, LeaseHeld | FileLockUnavailable | VfsError, Scope.Scope>

  /** Gives the lease back before the scope closes. Refused when this service did not give it, or it is not current. */
  readonly release: (grant: LeaseGrant) => Effect.Effect<void, LeaseNotHeld>

  /**
   * Ends a lease without its holder, for crash recovery. `layerMemory`: whoever holds it. `layerFile`: a grant of this
   * service, or what a dead process has left in the file; a live process cannot be made to let go of the kernel's lock
   * and is answered with `LeaseHeld`.
   */
  readonly forceRelease: Effect.Effect<void, LeaseHeld | FileLockUnavailable | VfsError>

  /** Who holds the lease, for messages; `undefined` when nobody does, as far as contents and processes tell. */
  readonly holder: Effect.Effect<Lease | undefined, VfsError>
}>()("@tidemark/coordinator/CoordinatorLease") {}

/**
 * How long a lease lasts without being renewed, by default: 5 seconds. It is renewed each third of that.
 *
 * @category constants
 * @since 0.1.0
 */
export const defaultLeaseMillis = 5000

const minLeaseMillis = 100
const maxLeaseMillis = 3_600_000

/**
 * @category models
 * @since 0.1.0
 */
export interface FileLeaseOptions {
  /** Path of the database file: the lease lies in `<db>.fsqlite/lease` (section 2.3 of `formats.md`). */
  readonly database: string
  /** 100 ms ... 1 hour, default {@link defaultLeaseMillis}. How soon a message says that a holder is overdue. */
  readonly duration?: Duration.Input | undefined
}

/**
 * @category models
 * @since 0.1.0
 */
export interface MemoryLeaseOptions {
  /** Layers with the same name and registry are rivals. */
  readonly name: string
  /** 100 ms ... 1 hour, default {@link defaultLeaseMillis}. After it a lease that was not renewed can be taken over. */
  readonly duration?: Duration.Input | undefined
  /** Who the holder is in messages. Default: this process. */
  readonly holder?: ProcessIdentity | undefined
  /** Default: the one of this process. */
  readonly registry?: LeaseRegistry | undefined
}

export {
  /**
   * The leases in memory of a process, or of a test: name -> lease.
   *
   * @category models
   * @since 0.1.0
   */
  type LeaseRegistry,
  /**
   * Makes a table of leases in memory without any.
   *
   * @category constructors
   * @since 0.1.0
   */
  makeLeaseRegistry
}

const toLeaseMillis = (duration: Duration.Input | undefined): number => {
  const millis = duration === undefined ? defaultLeaseMillis : Duration.toMillis(duration)
  invariant(millis >= minLeaseMillis && millis <= maxLeaseMillis, "a lease lasts 100 ms ... 1 hour")
  return Math.floor(millis)
}

/**
 * The lease of a database in its lease file, decided by the kernel's lock on that file.
 *
 * **Example** (Coordinating while nobody else does)
 *
 * ```ts
 * import * as CoordinatorLease from "@tidemark/coordinator/CoordinatorLease"
 * import * as NodeVfs from "@tidemark/platform/NodeVfs"
 * import * as Effect from "effect/Effect"
 * import * as Layer from "effect/Layer"
 *
 * export const program = Effect.scoped(Effect.gen(function*() {
 *   const lease = yield* CoordinatorLease.CoordinatorLease
 *   const grant = yield* lease.acquire
 *   return grant.isCurrent() // => true
 * })).pipe(Effect.provide(
 *   CoordinatorLease.layerFile({ database: "accounts.db" }).pipe(Layer.provide(NodeVfs.layer))
 * ))
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layerFile = (
  options: FileLeaseOptions
): Layer.Layer<CoordinatorLease, never, Vfs | FileLock | ProcessLiveness> =>
  Layer.effect(
    CoordinatorLease,
    Effect.gen(function*() {
      const platform = { vfs: yield* Vfs, fileLock: yield* FileLock, liveness: yield* ProcessLiveness }
      return CoordinatorLease.of(makeFileLease(platform, options.database, toLeaseMillis(options.duration)))
    })
  )

/**
 * {@link layerFile} with options from the configuration: `TIDEMARK_DATABASE`, a path, and `TIDEMARK_LEASE_MILLIS`,
 * 100 ... 3,600,000, default 5000.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerConfig: Layer.Layer<CoordinatorLease, Config.ConfigError, Vfs | FileLock | ProcessLiveness> = Layer
  .unwrap(Effect.gen(function*() {
    const LeaseMillis = Schema.Int.check(Schema.isBetween({ minimum: minLeaseMillis, maximum: maxLeaseMillis }))
    return layerFile({
      database: yield* Config.String("TIDEMARK_DATABASE"),
      duration: yield* Config.schema(LeaseMillis, "TIDEMARK_LEASE_MILLIS").pipe(Config.withDefault(defaultLeaseMillis))
    })
  }))

const processRegistry = makeLeaseRegistry()

/**
 * A lease in a table of this process: for tests, and for databases that only this process can reach.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerMemory = (options: MemoryLeaseOptions): Layer.Layer<CoordinatorLease> =>
  Layer.sync(CoordinatorLease, () =>
    CoordinatorLease.of(makeMemoryLease({
      name: options.name,
      leaseMillis: toLeaseMillis(options.duration),
      holder: options.holder ?? { pid: process.pid, birth: 0n },
      registry: options.registry ?? processRegistry
    })))
