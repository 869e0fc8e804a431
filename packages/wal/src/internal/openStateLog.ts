/** Opening a state: the replay, the first record of a new log, and the rest of a truncation that a crash has cut off. */
import { invariant } from "@tidemark/core/Invariant"
import type { Lsn } from "@tidemark/core/Scalars"
import type { VfsError } from "@tidemark/platform/VfsError"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type { AppendLog } from "../AppendLog.ts"
import type { LogCorrupt } from "../AppendLogErrors.ts"
import type { LogEnded } from "../GroupCommit.ts"
import type { RecordTooLarge } from "../LogErrors.ts"
import type { SnapshotMissing, StateRecordInvalid, WrongStateKind } from "../LogStateErrors.ts"
import { LogInUse } from "../LogStateErrors.ts"
import * as StateRecordFormat from "../StateRecordFormat.ts"
import type { LoggedState, StateDefinition, StateLogOptions } from "./loggedState.ts"
import { StateLog, truncate } from "./stateLog.ts"
import { StateReplay } from "./stateReplay.ts"

/** @internal */
export type StateOpenError =
  | WrongStateKind
  | StateRecordInvalid
  | SnapshotMissing
  | LogInUse
  | LogCorrupt
  | LogEnded
  | RecordTooLarge
  | VfsError

/** The logs that an adapter works on: two of them on one log would each miss what the other one does. */
const logsInUse = new WeakSet<AppendLog["Service"]>()

/** A reservation above every limit is refused with the limit, having reserved nothing. */
const maxRecordBytesOf = (log: AppendLog["Service"]): Effect.Effect<number, LogEnded> =>
  Effect.scoped(log.reserve(Number.MAX_SAFE_INTEGER)).pipe(
    Effect.matchEffect({
      onSuccess: () => Effect.die(new Error("a log reserved 2^53 - 1 bytes")),
      onFailure: (error) =>
        error._tag === "RecordTooLarge"
          ? Effect.succeed(error.maxRecordBytes)
          : error._tag === "EmptyRecord"
          ? Effect.die(error)
          : Effect.fail(error)
    })
  )

/**
 * Rebuilds the state from a log and keeps it there from now on. The log belongs to it until the scope closes.
 *
 * @internal
 */
export const openStateLog = Effect.fnUntraced(function*<State extends LoggedState<Command>, Command>(
  log: AppendLog["Service"],
  definition: StateDefinition<State, Command>,
  options: StateLogOptions
): Effect.fn.Return<StateLog<State, Command>, StateOpenError, Scope.Scope> {
  invariant(options.snapshotRatio > 0, "a snapshot is written when the log has grown")
  yield* Effect.acquireRelease(
    Effect.suspend(() => {
      if (logsInUse.has(log)) return Effect.fail(new LogInUse({ log: log.directory }))
      logsInUse.add(log)
      return Effect.void
    }),
    () => Effect.sync(() => logsInUse.delete(log))
  )
  const maxRecordBytes = yield* maxRecordBytesOf(log)
  const replay = new StateReplay(log.directory, definition)
  yield* log.stream().pipe(
    Stream.runForEachArray((records) =>
      Effect.suspend(() => {
        for (const record of records) {
          const refusal = replay.take(record)
          if (refusal !== undefined) return Effect.fail(refusal)
        }
        return Effect.void
      })
    ),
    // Nobody else truncates this log, and reading began at its first record.
    Effect.catchTag(["LsnTruncated", "LsnNotAFrame", "LsnNotReserved"], Effect.die)
  )
  const missing = replay.finish(log.watermarks().firstKept)
  if (missing !== undefined) return yield* missing
  const lastSnapshot = replay.lastSnapshot ?? (yield* writeFirst(log, definition.kind))
  // A crash may have come between the end of a snapshot and this.
  yield* truncate(log, lastSnapshot.start)
  const opened = { state: replay.state ?? definition.empty(), snapshotEnd: lastSnapshot.end, maxRecordBytes }
  const stateLog = new StateLog(log, definition, options, opened)
  yield* stateLog.start
  return stateLog
})

/** The snapshot of an empty state, all or nothing: a log with half of it would be refused. */
const writeFirst = (
  log: AppendLog["Service"],
  kind: StateRecordFormat.StateKind
): Effect.Effect<{ readonly start: Lsn; readonly end: Lsn }, LogEnded | RecordTooLarge> =>
  log.appendAll([
    StateRecordFormat.encode({ type: "begin", kind }),
    StateRecordFormat.encode({ type: "end", itemsRecords: 0 })
  ]).pipe(
    Effect.catchTag("EmptyRecord", Effect.die),
    Effect.map(([begin, end]) => {
      invariant(begin !== undefined && end !== undefined, "a log answers for every record")
      return { start: begin.start, end: end.end }
    })
  )
