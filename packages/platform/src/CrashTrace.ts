/**
 * What a workload did to a {@link MemoryDisk}, and the disks that a crash at any point of it can leave.
 *
 * **When to use**
 *
 * Use to recover from every point at which a program can crash: record the workload once with
 * {@link MemoryDisk.record}, then visit {@link Trace.crashStates}.
 *
 * @since 0.1.0
 */
import type { CrashChoices, MemoryDisk } from "./MemoryDisk.ts"

/**
 * A change of the disk, as a value. `inode` and `directory` tell files and directories apart; `upTo` says how many
 * changes there were when the sync was called.
 *
 * @category models
 * @since 0.1.0
 */
export type TraceEvent =
  | {
    readonly kind: "create" | "makeDirectory"
    readonly path: string
    readonly directory: number
    readonly name: string
    readonly inode: number
  }
  | { readonly kind: "remove"; readonly path: string; readonly directory: number; readonly name: string }
  | {
    readonly kind: "rename"
    readonly path: string
    readonly toPath: string
    readonly directory: number
    readonly name: string
    readonly toDirectory: number
    readonly toName: string
  }
  | {
    readonly kind: "write"
    readonly path: string
    readonly inode: number
    readonly position: number
    readonly bytes: Uint8Array
  }
  | { readonly kind: "truncate"; readonly path: string; readonly inode: number; readonly size: number }
  | {
    readonly kind: "syncData" | "syncFull" | "lostSync" | "syncDirectory"
    readonly path: string
    readonly inode: number
    readonly upTo: number
  }

/**
 * Which states {@link Trace.crashStates} visits.
 *
 * @category models
 * @since 0.1.0
 */
export interface CrashStatesOptions {
  /** Seed of the random states. Default 1. */
  readonly seed?: number | undefined
  /** Random states after each step that leaves something unsynced. Default 4. */
  readonly perStep?: number | undefined
  /**
   * All combinations of kept and dropped are visited after a step that leaves at most so many, by blocks of 512 bytes or
   * else by whole writes. Where there are more, the two extremes are. Default 32.
   */
  readonly exhaustiveUpTo?: number | undefined
  /** The steps after which it crashes, counted from 0 (before the first). Default: all. */
  readonly steps?: ((step: number) => boolean) | undefined
}

/**
 * A disk that a power loss can leave.
 *
 * @category models
 * @since 0.1.0
 */
export interface CrashState<Mark> {
  /** How many steps of the trace were made. */
  readonly step: number
  readonly last: TraceEvent | undefined
  /** `"lost"`, `"kept"`, `"seed 17"` (17 gives the same state to {@link Trace.crashAfter}), `"combination 3"`. */
  readonly choice: string
  /** Step and choice as a phrase, for messages of tests. */
  readonly label: string
  /** The marks that were put before the next step. */
  readonly marks: ReadonlyArray<Mark>
  readonly disk: MemoryDisk
}

/**
 * A recording of what happened to a disk.
 *
 * @category models
 * @since 0.1.0
 */
export interface Trace<Mark> {
  /** Grows while recording. Reads and failed operations that changed nothing are not in it. */
  readonly steps: ReadonlyArray<TraceEvent>
  /** Puts a mark behind the last step: "commit 7 is acknowledged". */
  readonly mark: (value: Mark) => void
  readonly stop: () => void
  /**
   * The disks that a power loss can leave after each number of steps, one after another. The same trace and the same
   * options give the same states.
   */
  readonly crashStates: (options?: CrashStatesOptions) => Iterable<CrashState<Mark>>
  /** One of these states again. */
  readonly crashAfter: (step: number, choices: CrashChoices) => CrashState<Mark>
  /** The disk that a killed process leaves after so many steps: everything is there, synced or not. */
  readonly diskAfter: (step: number) => MemoryDisk
}
