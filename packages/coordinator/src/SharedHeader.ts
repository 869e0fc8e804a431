/**
 * What every process of a database sees of its commits: the shared-memory header (section 7 of `formats.md`).
 *
 * **Details**
 *
 * One process publishes, all read. A snapshot is three numbers that belong together, taken without a lock and without a
 * system call. Invariants:
 *
 * 1. The log decides, never this memory. Who becomes the publisher makes the header say exactly what is durable,
 *    whatever it said before (RC-17, SHM-07); a header that fails a check is made anew (RC-18).
 * 2. At any time at most one publisher, decided by a kernel lock, which its holder loses by dying and by nothing else.
 *    The owner word in the header is for messages, and for the layer in memory, which has no lock.
 * 3. A snapshot that a reader gets was published as a whole (SHM-04). A window that a dead publisher has left open
 *    is closed by the next one, who rewrites everything in it (SHM-06); until then readers are answered with `Busy`,
 *    within milliseconds. Nobody closes the window of a publisher that lives.
 * 4. Between two publishers' beginnings the published sequence never falls.
 *
 * How the three numbers are kept together stands in `internal/headerWindow.ts`, how the file is opened in
 * `internal/headerFile.ts`.
 *
 * @since 0.1.0
 */
import { invariant } from "@tidemark/core/Invariant"
import type { CommitSeq, PageSize, SchemaEpoch, TxnId } from "@tidemark/core/Scalars"
import { FileLock, type FileLockUnavailable } from "@tidemark/platform/FileLock"
import { ProcessLiveness } from "@tidemark/platform/ProcessLiveness"
import {
  SharedMemory,
  type SharedMemoryUnavailable,
  type SharedMemoryUnmappable,
  type SharedRegion
} from "@tidemark/platform/SharedMemory"
import { Vfs } from "@tidemark/platform/Vfs"
import type { VfsError } from "@tidemark/platform/VfsError"
import type * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import type { Busy } from "./CoordinatorErrors.ts"
import { openHeaderFile } from "./internal/headerFile.ts"
import { makeMemoryPlace } from "./internal/headerPlace.ts"
import { WindowReader } from "./internal/headerWindow.ts"
import { makeSharedHeader } from "./internal/sharedHeader.ts"
import type { SerializedWriter } from "./SerializedWriter.ts"
import type { ShmPageSizeMismatch, ShmRefusal, ShmReplaced, TxnIdExhausted } from "./SharedHeaderErrors.ts"
import * as SharedHeaderFormat from "./SharedHeaderFormat.ts"
import type { TransactionSlots } from "./TransactionSlots.ts"

/**
 * What is published together.
 *
 * @category models
 * @since 0.1.0
 */
export interface HeaderSnapshot {
  /** Everything up to this commit is durable. */
  readonly commitSeq: CommitSeq
  readonly schemaEpoch: SchemaEpoch
  /** A u64. */
  readonly ecsEpoch: bigint
}

/**
 * What the log says.
 *
 * @category models
 * @since 0.1.0
 */
export interface DurableState extends HeaderSnapshot {
  /** Above every transaction id that was found in the log; at least 1. */
  readonly nextTxnId: bigint
}

/**
 * Who may publish, for as long as its scope is open. Using it later is a defect.
 *
 * @category models
 * @since 0.1.0
 */
export interface HeaderPublisher {
  /** Larger by one than that of the publisher before, modulo 2^31. */
  readonly generation: number
  /**
   * Makes a new state visible to all readers at once. Synchronous. The commit sequence does not fall.
   */
  readonly publish: (state: HeaderSnapshot) => void
  /**
   * Makes the header say exactly this, whatever it said, lower sequences included (RC-17, SHM-07). The next transaction
   * id is raised and never lowered: transactions that are running keep theirs. `becomePublisher` has done it once.
   */
  readonly reconcile: (durable: DurableState) => void
}

/**
 * Why a header cannot be opened. `Busy`: somebody else is about to make it.
 *
 * @category errors
 * @since 0.1.0
 */
export type OpenSharedHeaderError =
  | ShmRefusal
  | ShmPageSizeMismatch
  | SharedMemoryUnavailable
  | SharedMemoryUnmappable
  | FileLockUnavailable
  | Busy
  | VfsError

/**
 * Why somebody does not become the publisher. `Busy`: another one is.
 *
 * @category errors
 * @since 0.1.0
 */
export type BecomePublisherError =
  | ShmPageSizeMismatch
  | SharedMemoryUnavailable
  | SharedMemoryUnmappable
  | FileLockUnavailable
  | Busy
  | VfsError

/**
 * Why a header cannot be looked for again. What was mapped stays mapped.
 *
 * @category errors
 * @since 0.1.0
 */
export type RefreshError =
  | ShmRefusal
  | ShmPageSizeMismatch
  | ShmReplaced
  | SharedMemoryUnavailable
  | SharedMemoryUnmappable
  | VfsError

/**
 * The shared-memory header of one database.
 *
 * @category services
 * @since 0.1.0
 */
export class SharedHeader extends Context.Service<SharedHeader, {
  /** The file, or the name of the memory. */
  readonly path: string
  readonly pageSize: PageSize
  /** Transaction slots of the header that is mapped now. */
  readonly slots: number
  /** The memory that is mapped now: another one after `refresh` or `becomePublisher` found another file. */
  readonly region: () => SharedRegion

  /**
   * What is published. Answered on the spot unless a window is open; then the thread is held for 50 us at most and
   * given to others for a millisecond, and after that the answer is `Busy`, which says whether the publisher lives.
   */
  readonly snapshot: Effect.Effect<HeaderSnapshot, Busy>

  /** What is published, or `undefined` when a window stays open for 50 us. For who has no fiber to wait with. */
  readonly snapshotUnsafe: () => HeaderSnapshot | undefined

  /**
   * Takes the right to publish and makes the header say what is durable; given back with the scope. A header that
   * fails a check, or has lost its name, is made anew (RC-18); an open window is closed (SHM-06).
   */
  readonly becomePublisher: (
    durable: DurableState
  ) => Effect.Effect<HeaderPublisher, BecomePublisherError, Scope.Scope>

  /**
   * The id of a new transaction, each given once to all processes together (SHM-10). Instead of one there may be a
   * reason: nobody has published yet, or all 2^62 - 1 are used up.
   */
  readonly nextTxnId: () => TxnId | Busy | TxnIdExhausted

  /** The one transaction of all processes that commits alone (SHM-08, SHM-09). */
  readonly serialized: SerializedWriter

  /** The transactions of all processes, and the GC horizon (SHM-11, SHM-12). */
  readonly transactions: TransactionSlots

  /**
   * Maps the header again when the file under the name is another one (RC-18), and answers whether it was. To be asked
   * by a client each time it has found a coordinator: that one may have made the header anew. A publisher whose file
   * has lost its name is told so (`ShmReplaced`).
   */
  readonly refresh: Effect.Effect<boolean, RefreshError>
}>()("@tidemark/coordinator/SharedHeader") {}

/**
 * @category models
 * @since 0.1.0
 */
export interface SharedHeaderOptions {
  /** Path of the database file: the header lies in `<db>.fsqlite-shm`. */
  readonly database: string
  readonly pageSize: PageSize
  /** Transaction slots of a header that has to be made: 1 ... 65,536; 0 or none means 128. */
  readonly slots?: number | undefined
}

/**
 * @category models
 * @since 0.1.0
 */
export interface MemoryHeaderOptions extends Omit<SharedHeaderOptions, "database"> {
  /** For messages. */
  readonly database?: string | undefined
}

/**
 * The header of a database in a file that all of its processes map.
 *
 * **Details**
 *
 * Opening it writes nothing when a good header is there. Where there is none, or one that fails a check, it is made
 * anew, unless somebody publishes: then that one makes it, and the opening waits for a second at most. A header that was
 * just made answers `Busy` to whoever wants a snapshot, until somebody has become the publisher.
 *
 * **Example** (Reading what another process publishes)
 *
 * ```ts
 * import { PageSize } from "@tidemark/core/Scalars"
 * import * as SharedHeader from "@tidemark/coordinator/SharedHeader"
 * import * as NodeVfs from "@tidemark/platform/NodeVfs"
 * import { SharedMemory } from "@tidemark/platform/SharedMemory"
 * import * as Effect from "effect/Effect"
 * import * as Layer from "effect/Layer"
 *
 * export const program = Effect.gen(function*() {
 *   const header = yield* SharedHeader.SharedHeader
 *   const { commitSeq } = yield* header.snapshot
 *   return commitSeq
 * }).pipe(Effect.provide(
 *   SharedHeader.layer({ database: "accounts.db", pageSize: PageSize.make(4096) }).pipe(
 *     Layer.provide([SharedMemory.layerFile, NodeVfs.layer])
 *   )
 * ))
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (
  options: SharedHeaderOptions
): Layer.Layer<SharedHeader, OpenSharedHeaderError, SharedMemory | FileLock | ProcessLiveness | Vfs> =>
  Layer.effect(
    SharedHeader,
    Effect.gen(function*() {
      const { pageSize, slots } = SharedHeaderFormat.freshHeader(options)
      const liveness = yield* ProcessLiveness
      const platform = { memory: yield* SharedMemory, fileLock: yield* FileLock, liveness, vfs: yield* Vfs }
      const place = yield* openHeaderFile(platform, { database: options.database, pageSize, slots })
      return SharedHeader.of(yield* makeSharedHeader(place, { pageSize, liveness }))
    })
  )

/**
 * A header in memory that only this process sees: for a coordinator whose commits nobody else has to see, and for tests.
 * No file, no kernel lock, no native access; the right to publish is the header's owner word.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerMemory = (options: MemoryHeaderOptions): Layer.Layer<SharedHeader> =>
  Layer.effect(
    SharedHeader,
    Effect.suspend(() => {
      const contents = SharedHeaderFormat.freshHeader(options)
      // The name is for messages: without a database it is no path.
      const name = options.database === undefined ? "memory" : SharedHeaderFormat.sharedHeaderPath(options.database)
      const place = makeMemoryPlace(name, contents)
      return makeSharedHeader(place, { pageSize: contents.pageSize, liveness: undefined })
    })
  )

/**
 * The reading half of a header, for a thread that has no layers.
 *
 * @category models
 * @since 0.1.0
 */
export interface HeaderReader {
  /** As `snapshotUnsafe` of {@link SharedHeader}. */
  readonly snapshotUnsafe: () => HeaderSnapshot | undefined
}

/**
 * Reads snapshots in a worker thread, over the memory that the thread with the layer has posted.
 *
 * **Details**
 *
 * `clock` bounds how long it stays with an open window. The header is not checked: who posted it has done that.
 *
 * **Example** (A worker that reads)
 *
 * ```ts
 * import { readHeader } from "@tidemark/coordinator/SharedHeader"
 * import { regionOf } from "@tidemark/platform/SharedMemory"
 * import * as Clock from "effect/Clock"
 * import * as Effect from "effect/Effect"
 *
 * // Posted by the thread that has the layer: `header.region().buffer`.
 * export const newest = (name: string, buffer: SharedArrayBuffer) =>
 *   Effect.map(Clock.Clock, (clock) => readHeader(regionOf(name, buffer), clock).snapshotUnsafe()?.commitSeq)
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const readHeader = (region: SharedRegion, clock: Clock.Clock): HeaderReader => {
  invariant(region.bytes >= SharedHeaderFormat.sharedHeaderBytes, "the memory of a header holds a header")
  const reader = new WindowReader(() => region, () => clock.monotonicTimeNanosUnsafe())
  return { snapshotUnsafe: () => reader.read() }
}
