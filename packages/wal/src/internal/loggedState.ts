/** What a state has to be so that a log can keep it, and what can be done to it. */
import type { FormatIssue } from "@tidemark/core/BinaryFormat"
import type * as Result from "effect/Result"
import type { LogEnded } from "../GroupCommit.ts"
import type { RecordTooLarge } from "../LogErrors.ts"
import type * as StateRecordFormat from "../StateRecordFormat.ts"

/**
 * The state in memory.
 *
 * @internal
 */
export interface LoggedState<Command> {
  /** Total and deterministic: the same commands in the same order give the same state. */
  readonly apply: (command: Command, itemBytes: number) => void
  /** Commands that give this state when they are applied to an empty one. They do not change when the state does. */
  readonly capture: () => ReadonlyArray<Command>
  /** About as many bytes as a snapshot takes. */
  readonly liveBytes: number
}

/** @internal */
export interface StateDefinition<State extends LoggedState<Command>, Command> {
  readonly kind: StateRecordFormat.StateKind
  readonly encode: (command: Command) => Uint8Array
  readonly decode: (bytes: Uint8Array) => Result.Result<Command, FormatIssue>
  readonly empty: () => State
}

/** @internal */
export interface StateLogOptions {
  readonly snapshotRatio: number
  readonly snapshotMinBytes: number
  readonly maxQueuedBytes: number
}

/**
 * What a caller decides to do, having looked at the state.
 *
 * - `answer`: nothing is written, and the answer rests on durable commands.
 * - `answerWhenDurable`: nothing is written, but the answer rests on what was submitted before.
 * - `commit`: the commands enter the log together. `stage` runs in the same step, unless one of them is refused for its
 *   size; `answer` runs when they were applied.
 *
 * @internal
 */
export type Decision<Command, A> =
  | { readonly type: "answer"; readonly answer: A }
  | { readonly type: "answerWhenDurable"; readonly answer: A }
  | {
    readonly type: "commit"
    readonly commands: ReadonlyArray<Command>
    readonly stage?: (() => void) | undefined
    readonly answer: () => A
  }

/** @internal */
export type StateLogError = LogEnded | RecordTooLarge
