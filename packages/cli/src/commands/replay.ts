/**
 * `tidemark replay SOURCE-WAL INTO-DB`: commits the transactions of a real SQLite WAL through the coordinator, with many
 * writers at once, and lets SQLite check the result.
 *
 * **Details**
 *
 * INTO-DB has to be a copy of the database as it was when the WAL began: what a WAL holds are whole pages, so nothing in
 * it could tell. What is checked first, before anything is changed: that both are readable, that the page sizes agree,
 * and that the WAL is not the one of INTO-DB itself.
 *
 * @since 0.1.0
 */
import { Pager } from "@tidemark/coordinator/Pager"
import type { PageSize } from "@tidemark/core/Scalars"
import * as NodeVfs from "@tidemark/platform/NodeVfs"
import { Vfs } from "@tidemark/platform/Vfs"
import { examineNative } from "@tidemark/wal/NativeStartUp"
import { examineParallel } from "@tidemark/wal/ParallelStartUp"
import { walPath } from "@tidemark/wal/SqliteWalFormat"
import { examineDatabase } from "@tidemark/wal/StartUp"
import * as Argument from "effect/cli/Argument"
import * as Command from "effect/cli/Command"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import { type DatabaseLog, engineCounts, integrityCheck, OpenLog, withEngine, withSqlite } from "../database.ts"
import { ExitCode, OperationFailed, WrongUsage } from "../ExitCode.ts"
import { json, writers as writersFlag } from "../flags.ts"
import { log as logFlag, readLog } from "../logFlag.ts"
import { withProgress } from "../Progress.ts"
import * as CommitOrder from "../replay/CommitOrder.ts"
import { openRecordedWal, type RecordedWal } from "../replay/RecordedWal.ts"
import { writeRecorded } from "../replay/writeRecorded.ts"
import { emit, type Report, writeError } from "../Report.ts"
import { count, counted, pairs } from "../Style.ts"

interface Progress {
  stage: string
  committed: number
}

interface ReplayOptions {
  readonly source: string
  readonly database: string
  readonly writers: number
  /** What the transactions are committed through. */
  readonly log: DatabaseLog
}

const replay = Effect.fnUntraced(function*({ database, log, source, writers }: ReplayOptions, progress: Progress) {
  const { found, wal } = yield* examine(source, database, log)
  progress.stage = "replaying"
  const replayed = yield* withEngine(database, log, commitAll(wal, found.databasePages, writers, progress))
  progress.stage = "checking"
  const integrity = yield* withSqlite(database, integrityCheck)
  return reportOf(database, log, wal, replayed, integrity)
}, Effect.scoped)

const examiners = { sqlite: examineDatabase, parallel: examineParallel, native: examineNative } as const

/** Everything that can be refused, before a byte is changed. */
const examine = Effect.fnUntraced(function*(source: string, database: string, log: DatabaseLog) {
  const vfs = yield* Vfs
  const found = yield* examiners[log](vfs, database)
  if (!found.databaseExists) {
    return yield* new OperationFailed({ path: database, sentence: `there is no database at ${database}` })
  }
  yield* refuseOwnWal(source, database)
  if (found.refusal !== undefined) return yield* found.refusal
  const wal = yield* openRecordedWal(source)
  yield* refuseOtherPageSize(wal, database, found.pageSize)
  if (wal.tornTailBytes > 0) {
    yield* writeError(`${source} ends in ${counted(wal.tornTailBytes, "byte")} of no commit, which are left out`)
  }
  return { found, wal }
})

const refuseOwnWal = Effect.fnUntraced(function*(source: string, database: string) {
  const vfs = yield* Vfs
  const [own, given] = [yield* vfs.identify(walPath(database)), yield* vfs.identify(source)]
  if (own !== undefined && own.inode === given?.inode) {
    return yield* new WrongUsage({
      sentence: `${source} is the log of ${database} itself: its commits are there already`
    })
  }
})

const refuseOtherPageSize = (
  wal: RecordedWal,
  database: string,
  pageSize: PageSize | undefined
): Effect.Effect<void, OperationFailed> =>
  pageSize === undefined || pageSize === wal.pageSize ? Effect.void : Effect.fail(
    new OperationFailed({
      path: wal.path,
      sentence:
        `${wal.path} holds pages of ${wal.pageSize} bytes (byte 8), ${database} has pages of ${pageSize}; nothing was changed`
    })
  )

interface Replayed {
  readonly committed: number
  readonly conflicts: number
  readonly seconds: number
}

const commitAll = Effect.fnUntraced(function*(
  wal: RecordedWal,
  initialPages: number,
  writers: number,
  progress: Progress
) {
  const pager = yield* Pager
  const { transactions } = wal
  const order = CommitOrder.make(transactions, initialPages, () => false)
  const startedAt = yield* Clock.monotonicTimeNanos
  const writer = Effect.gen(function*() {
    const buffer = new Uint8Array(wal.pageSize)
    while (true) {
      const index = yield* order.take
      const recorded = index === undefined ? undefined : transactions[index]
      if (index === undefined || recorded === undefined) return
      const sizeBefore = transactions[index - 1]?.databasePages ?? initialPages
      yield* pager.withTransaction((transaction) => writeRecorded(transaction, wal, recorded, sizeBefore, buffer))
      progress.committed++
      order.complete(index)
    }
  })
  yield* Effect.all(Array.from({ length: Math.min(writers, transactions.length) }, () => writer), {
    concurrency: "unbounded",
    discard: true
  })
  const seconds = Number((yield* Clock.monotonicTimeNanos) - startedAt) / 1e9
  const { conflicts } = yield* engineCounts
  const { checkpoint } = yield* OpenLog
  yield* checkpoint("truncate")
  return { committed: progress.committed, conflicts, seconds }
})

const reportOf = (
  database: string,
  log: DatabaseLog,
  wal: RecordedWal,
  replayed: Replayed,
  integrity: string
): Report => {
  const { committed, conflicts, seconds } = replayed
  const transactions = wal.transactions.length
  const commitsPerSecond = seconds > 0 ? Math.round(committed / seconds) : 0
  const isFine = integrity === "ok" && committed === transactions
  return {
    exitCode: isFine ? ExitCode.fine : ExitCode.problem,
    json: { transactions, committed, conflicts, commitsPerSecond, integrityCheck: integrity, database, log },
    text: (style) =>
      `${style.strong(database)}: ${isFine ? style.good("replayed") : style.bad("does not check")}\n\n${
        pairs([
          ["transactions in the WAL", count(transactions)],
          ["log", log],
          ["committed", count(committed)],
          ["conflicts", count(conflicts)],
          ["speed", `${count(commitsPerSecond)} commits/s`],
          ["integrity_check", integrity]
        ], style)
      }`
  }
}

/**
 * @category commands
 * @since 0.1.0
 */
export const replayCommand = Command.make("replay", {
  source: Argument.String("SOURCE-WAL").pipe(Argument.withDescription("A -wal file that SQLite has written")),
  database: Argument.String("INTO-DB").pipe(
    Argument.withDescription("A copy of its database as it was before the first commit in the WAL")
  ),
  writers: writersFlag,
  log: logFlag,
  json
}, ({ json, log, ...what }) => {
  const progress: Progress = { stage: "reading", committed: 0 }
  return emit(
    { json },
    Effect.flatMap(readLog(log), (log) => replay({ ...what, log }, progress)).pipe(
      Effect.provide(NodeVfs.layerVfs),
      withProgress(() => `${progress.stage} ${what.source}: ${counted(progress.committed, "commit")}`)
    )
  )
}).pipe(
  Command.withDescription("Commit the transactions of a real SQLite WAL, with many writers at once.")
)
