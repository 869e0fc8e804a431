/**
 * Durable logs with group commit, and the SQLite write-ahead log.
 *
 * @since 0.1.0
 */
export * as AtomicFile from "./AtomicFile.ts"
export { CommitLog, type LogCommit, type LogReader, type Published } from "./CommitLog.ts"
export * as DatabaseHeaderFormat from "./DatabaseHeaderFormat.ts"
export * as GroupCommit from "./GroupCommit.ts"
export * as LeaseFormat from "./LeaseFormat.ts"
export * from "./LogErrors.ts"
export * as LogMetrics from "./LogMetrics.ts"
export { SnapshotRegistry } from "./SnapshotRegistry.ts"
export * as SqliteWal from "./SqliteWal.ts"
export * as SqliteWalFormat from "./SqliteWalFormat.ts"
export * as StartUp from "./StartUp.ts"
export * from "./StartUpErrors.ts"
export * as WalBaseFormat from "./WalBaseFormat.ts"
export { WalIndex } from "./WalIndex.ts"
