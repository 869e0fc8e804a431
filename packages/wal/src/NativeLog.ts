/**
 * The native log of a database: the pages of a commit lie in a capsule of its own, which its writer puts beside the
 * database; what is appended to make them count is a marker of 88 bytes.
 *
 * **Details**
 *
 * Group commit with two barriers a batch (CO-09): the capsules of all of its commits are synced side by side and their
 * directory once, then the markers are written and synced. So a marker never names a capsule that a power loss takes
 * (CO-10): a crash in between leaves capsules without a marker, which the next start removes (RC-16).
 *
 * Who commits never sends page bytes through the log: {@link NativeCommit} is numbers and an id.
 *
 * What is committed here lies in files that stock SQLite does not know, so it refuses the database until a checkpoint
 * has brought everything into the database file (`formats.md` 2.2). Closing the layer does that, unless told otherwise or
 * somebody still reads. The markers stay, as the history of the database.
 *
 * A database whose markers are damaged above the checkpoint mark opens all the same (RC-26): what stands before the
 * damage can be read, every commit is answered with `WalPoisoned`, whose cause is the damage, and nothing on the disk
 * changes, until it is opened with `acceptLoss`.
 *
 * @since 0.1.0
 */
import type { CommitSeq, ObjectId, PageNumber, PageSize, TxnToken } from "@tidemark/core/Scalars"
import type { FileLock, FileLockUnavailable } from "@tidemark/platform/FileLock"
import type { Vfs } from "@tidemark/platform/Vfs"
import type { VfsError } from "@tidemark/platform/VfsError"
import * as Config from "effect/Config"
import * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import { CapsuleStore } from "./CapsuleStore.ts"
import type { SequencedLog } from "./CommitLog.ts"
import type { GroupCommitOptions, LogEnded } from "./GroupCommit.ts"
import { nativeDefaults } from "./internal/nativeDefaults.ts"
import { makeNativeLog } from "./internal/nativeLog.ts"
import type { Busy, CheckpointFailed, DatabaseTruncated, LogLocked } from "./LogErrors.ts"
import type { MarkerReader } from "./MarkerStore.ts"
import type { NativeExamination, OrphanCapsule } from "./NativeStartUp.ts"
import type { CheckpointMode, CheckpointReport } from "./SqliteWal.ts"
import type { StartUpRefusal } from "./StartUpErrors.ts"

/**
 * @category models
 * @since 0.1.0
 */
export interface NativeLogOptions {
  /** Path of the database file. */
  readonly database: string
  /** Make the database when there is none: an empty one with pages of this size. Default: it must exist. */
  readonly create?: { readonly pageSize?: PageSize | undefined } | undefined
  /** Bounds and delays of the group commit. A commit is 88 bytes; what it holds is on the disk already. */
  readonly groupCommit?:
    | Pick<GroupCommitOptions, "maxBatchBytes" | "maxQueuedBytes" | "commitDelay" | "commitSiblings">
    | undefined
  /** A checkpoint starts in the background when so many pages are not in the database file. 0: never. Default 1000. */
  readonly autoCheckpointFrames?: number | undefined
  /**
   * A checkpoint in the background keeps the files of capsules for the next commits, up to so many bytes of them, instead
   * of removing them; they go when a checkpoint is asked for, when room is short, and when the log is closed. 0: none.
   * Default 16 MiB.
   */
  readonly maxSpareBytes?: number | undefined
  /** Whether closing copies everything into the database file, so that stock SQLite may open it. Default true. */
  readonly checkpointOnClose?: boolean | undefined
  /** Keep what stands before damage in the markers, and go on behind it, instead of only reading (RC-26). Default false. */
  readonly acceptLoss?: boolean | undefined
  /**
   * Asked for each capsule without a marker before it is removed at the start (RC-16): no, for one that belongs to a
   * transaction that lives in another process. Default: all are removed.
   */
  readonly mayRemoveOrphan?: ((orphan: OrphanCapsule) => boolean) | undefined
}

/**
 * The defaults of {@link NativeLogOptions}.
 *
 * @category models
 * @since 0.1.0
 */
export const defaults = nativeDefaults

/**
 * Why a database could not be opened. Nothing was changed on the disk.
 *
 * @category errors
 * @since 0.1.0
 */
export type OpenNativeError =
  | StartUpRefusal
  | LogLocked
  | Busy
  | DatabaseTruncated
  | FileLockUnavailable
  | VfsError

/**
 * What is handed to the log for a commit: numbers alone. The bytes are in the capsule, which is in the `CapsuleStore`,
 * written and not yet synced.
 *
 * **Gotchas**
 *
 * A capsule that is not there, or cannot be synced, poisons the log: whoever takes commits from elsewhere looks for it
 * before he gives the commit a sequence (CO-05). From the hand-over on the `CapsuleStore` of the log does not remove it
 * any more, whoever asks; another process must not do it either.
 *
 * @category models
 * @since 0.1.0
 */
export interface NativeCommit {
  readonly token: TxnToken
  readonly seq: CommitSeq
  /** Those of the capsule, in its order: ascending. */
  readonly pages: ReadonlyArray<PageNumber>
  readonly capsule: ObjectId
  /** Database size in pages after this commit. */
  readonly databasePages: number
  /** Set by `appendUnsafe`. It counts when the commit is durable. */
  markerId: ObjectId | undefined
}

/**
 * The native log of one database.
 *
 * @category services
 * @since 0.1.0
 */
export class NativeLog extends Context.Service<NativeLog, {
  readonly database: string
  readonly pageSize: PageSize
  /** What was found when the database was opened. */
  readonly startUp: NativeExamination
  /** What a coordinator hands its commits to, and what it publishes from. */
  readonly commits: SequencedLog<NativeCommit>
  /** The history: every commit that was durable when it is read. */
  readonly markers: MarkerReader
  /** The highest transaction id that recovery found in the log; 0 when it found none. */
  readonly lastTxnId: bigint
  /** Page images and capsules that are not in the database file. */
  readonly inLog: () => { readonly records: number; readonly capsules: number }
  /**
   * Copies pages of durable commits into the database file, writes the checkpoint mark, removes the capsules. `passive`
   * goes as far as the oldest reader and waits for nobody; the others wait for readers up to `busyTimeout` (default 5 s)
   * and let stock SQLite in again. There is nothing else to be emptied, so the three do the same.
   */
  readonly checkpoint: (
    mode: CheckpointMode,
    options?: { readonly busyTimeout?: Duration.Input | undefined }
  ) => Effect.Effect<CheckpointReport, CheckpointFailed | LogEnded>
}>()("@tidemark/wal/NativeLog") {}

/**
 * Opens the native log of a database: `NativeLog`, and the `CapsuleStore` that writers put their capsules into.
 *
 * **Example** (Asking what the log holds)
 *
 * ```ts
 * import { NodeVfs } from "@tidemark/platform"
 * import { NativeLog } from "@tidemark/wal"
 * import { Effect, Layer } from "effect"
 *
 * const program = Effect.gen(function*() {
 *   const log = yield* NativeLog.NativeLog
 *   yield* log.checkpoint("full")
 *   return log.inLog().capsules
 * })
 * const engine = NativeLog.layer({ database: "app.db", create: {} }).pipe(Layer.provide(NodeVfs.layer))
 *
 * export const main = Effect.provide(program, engine)
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (
  options: NativeLogOptions
): Layer.Layer<NativeLog | CapsuleStore, OpenNativeError, Vfs | FileLock> =>
  Layer.effectContext(Effect.map(
    makeNativeLog(options),
    ({ capsules, nativeLog }) => Context.make(NativeLog, nativeLog).pipe(Context.add(CapsuleStore, capsules))
  ))

/**
 * {@link layer} with options from the configuration: `TIDEMARK_DATABASE`, `TIDEMARK_AUTO_CHECKPOINT_FRAMES`.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerConfig: Layer.Layer<
  NativeLog | CapsuleStore,
  OpenNativeError | Config.ConfigError,
  Vfs | FileLock
> = Layer.unwrap(Effect.gen(function*() {
  return layer({
    database: yield* Config.String("TIDEMARK_DATABASE"),
    autoCheckpointFrames: yield* Config.schema(NotNegative, "TIDEMARK_AUTO_CHECKPOINT_FRAMES").pipe(
      Config.withDefault(defaults.autoCheckpointFrames)
    )
  })
}))

const NotNegative = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: Number.MAX_SAFE_INTEGER }))
