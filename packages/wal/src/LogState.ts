/**
 * What the adapters over an append log have in common: `LogKeyValueStore`, `LogPersistedQueue`, `LogEventJournal`.
 *
 * **Details**
 *
 * Each keeps its whole state in memory and every change of it as a record in a log of its own. Opening replays the log.
 * When the log has grown, a snapshot of the state is written into it and what came before is truncated, while changes go
 * on. The records are described in `StateRecordFormat`.
 *
 * @since 0.1.0
 */
import type { FileLock } from "@tidemark/platform/FileLock"
import type { ProcessLiveness } from "@tidemark/platform/ProcessLiveness"
import type { Vfs } from "@tidemark/platform/Vfs"
import type * as AppendLog from "./AppendLog.ts"
import * as GroupCommit from "./GroupCommit.ts"
import type { StateLogError } from "./internal/loggedState.ts"
import type { StateOpenError } from "./internal/openStateLog.ts"

/**
 * When the log is cut short, and how much may wait in front of it.
 *
 * @category models
 * @since 0.1.0
 */
export interface LogStateOptions {
  /**
   * A snapshot is written when the log behind the last one is so many times as large as what lives in it. Default 2.
   * Larger: less is written, more is kept on the disk and replayed.
   */
  readonly snapshotRatio?: number | undefined
  /** No snapshot is written before there are so many bytes behind the last one. Default 16 MiB. */
  readonly snapshotMinBytes?: number | undefined
  /** The most bytes that wait in front of the log; whoever comes then waits, having decided nothing. Default 64 MiB. */
  readonly maxQueuedBytes?: number | undefined
}

/**
 * The options of an adapter that opens a log of its own. `segmentBytes` is 16 MiB by default: segments are what is
 * dropped behind a snapshot.
 *
 * @category models
 * @since 0.1.0
 */
export interface LogStateDirectoryOptions extends LogStateOptions, AppendLog.AppendLogOptions {}

/**
 * The defaults of {@link LogStateOptions}, and the segments of a log of one's own.
 *
 * @category configuration
 * @since 0.1.0
 */
export const defaults = {
  snapshotRatio: 2,
  snapshotMinBytes: 16 * 1024 * 1024,
  maxQueuedBytes: GroupCommit.defaults.maxQueuedBytes,
  segmentBytes: 16 * 1024 * 1024
} as const

/**
 * Why an adapter could not be opened over a log.
 *
 * @category errors
 * @since 0.1.0
 */
export type OpenError = StateOpenError

/**
 * Why an adapter could not be opened over a directory.
 *
 * @category errors
 * @since 0.1.0
 */
export type OpenDirectoryError = StateOpenError | AppendLog.OpenError

/**
 * The cause inside the errors of the interfaces: the log has ended, or the change is too large for it.
 *
 * @category errors
 * @since 0.1.0
 */
export type CommitError = StateLogError

/**
 * What a layer that opens a log of its own asks for.
 *
 * @category models
 * @since 0.1.0
 */
export type Platform = Vfs | FileLock | ProcessLiveness
