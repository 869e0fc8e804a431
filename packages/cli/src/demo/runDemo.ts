/**
 * The main job: record what SQLite writes, commit it with many writers, kill the process that commits, recover, commit
 * the rest, and let SQLite judge.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import * as Random from "effect/Random"
import type { OperationFailed } from "../ExitCode.ts"
import { bar } from "../Progress.ts"
import { openRecordedWal, type RecordedTransaction } from "../replay/RecordedWal.ts"
import { makeWorkDirectory } from "../WorkDirectory.ts"
import { copyBase, makeRecording, type Recording } from "./Recording.ts"
import { runSqliteAlone, type SqliteAlone } from "./SqliteAlone.ts"
import { lostInRecovery, type Verification, verifyDatabase } from "./Verification.ts"
import { runWriterProcess } from "./WriterProcess.ts"
import type { WriterAnswer, WriterJob } from "./WriterProtocol.ts"

/**
 * @category models
 * @since 0.1.0
 */
export interface DemoOptions {
  /** Where the files go; `undefined` is the directory for temporary files. */
  readonly directory: string | undefined
  readonly writers: number
  readonly transactions: number
  /** After which part of the acknowledgements the process is killed; 0 is never. */
  readonly kill: number | "random"
  readonly keep: boolean
  /** Makes the workload, and the random moment, repeatable. */
  readonly seed: number
}

/**
 * What the process that commits has told.
 *
 * @category models
 * @since 0.1.0
 */
export interface Run {
  /** What was read as durable. */
  readonly acknowledged: ReadonlySet<number>
  /** What was found durable when the database was opened. */
  readonly found: ReadonlySet<number>
  readonly isKilled: boolean
  readonly seconds: number
  readonly syncs: number
  readonly conflicts: number
  readonly retries: number
}

/**
 * @category models
 * @since 0.1.0
 */
export interface DemoResult {
  readonly recording: Recording
  readonly first: Run
  /** The process after the kill; `undefined` when there was none. */
  readonly second: Run | undefined
  /** Lost when the database was recovered. */
  readonly lostInRecovery: ReadonlySet<number>
  readonly verification: Verification
  readonly sqliteAlone: SqliteAlone
  /** Of the database, when it is kept. */
  readonly database: string | undefined
  /** The files lie in memory, where a sync costs nothing. */
  readonly isInMemory: boolean
}

/**
 * What is being done, for the progress line.
 *
 * @category models
 * @since 0.1.0
 */
export interface Stage {
  describe: () => string
}

/**
 * Does the main job.
 *
 * @category running
 * @since 0.1.0
 */
export const runDemo = Effect.fnUntraced(function*(options: DemoOptions, stage: Stage) {
  const { transactions, writers } = options
  const files = yield* makeWorkDirectory(options.directory, "demo")
  const recording = yield* makeRecording(files.path, { transactions, writers }, (recorded) => {
    stage.describe = () => `recording    ${bar(recorded, transactions, "transactions")}`
  })
  const database = `${files.path}/accounts.db`
  yield* copyBase(recording, database)
  const recorded = yield* Effect.scoped(openRecordedWal(recording.wal))
  const total = recording.sizes.recorded + recording.sizes.additions
  const share = options.kill === "random" ? yield* Random.nextBetween(0.02, 0.98) : options.kill
  const killAfter = share === 0 ? undefined : Math.max(1, Math.floor(share * total))

  const first = yield* commit(jobOf(recording, recorded.transactions, database, writers, new Set()), {
    killAfter,
    stage: showCommits(stage, "committing", 0, total)
  })
  const second = !first.isKilled ? undefined : yield* commit(
    jobOf(recording, recorded.transactions, database, writers, first.acknowledged),
    { killAfter: undefined, stage: showCommits(stage, "recovering", first.acknowledged.size, total) }
  )

  stage.describe = () => "SQLite checks the database"
  const verification = yield* verifyDatabase(database, recording)
  const alone = `${files.path}/sqlite-alone.db`
  yield* copyBase(recording, alone)
  const sqliteAlone = yield* runSqliteAlone(recording, alone, (commits) => {
    stage.describe = () => `SQLite alone ${bar(commits, total, "commits")}`
  })
  if (options.keep) yield* files.keepOnly("accounts.db")
  const result: DemoResult = {
    recording,
    first,
    second,
    lostInRecovery: second === undefined
      ? new Set()
      : lostInRecovery(recorded.transactions, first.acknowledged, second.found),
    verification,
    sqliteAlone,
    database: options.keep ? database : undefined,
    isInMemory: files.isInMemory
  }
  return result
}, Effect.scoped)

const showCommits = (stage: Stage, what: string, before: number, total: number) => (done: number) => {
  stage.describe = () => `${what.padEnd(12)} ${bar(before + done, total, "commits")}`
}

const jobOf = (
  recording: Recording,
  recorded: ReadonlyArray<RecordedTransaction>,
  database: string,
  writers: number,
  acknowledged: ReadonlySet<number>
): WriterJob => ({
  database,
  recordedWal: recording.wal,
  writers,
  ...recording.sizes,
  // No transfer changes the size.
  initialPages: recorded[0]?.databasePages ?? 1,
  ledgerPages: recording.ledgerPages,
  counterPages: recording.counterPages,
  acknowledged: [...acknowledged]
})

/** Runs one process to its end, planned or not, and gathers what it says. */
const commit = Effect.fnUntraced(function*(job: WriterJob, plan: {
  readonly killAfter: number | undefined
  readonly stage: (done: number) => void
}): Effect.fn.Return<Run, OperationFailed> {
  const acknowledged = new Set<number>()
  const found = new Set<number>()
  let seconds = 0
  let counts = { syncs: 0, conflicts: 0, retries: 0 }
  plan.stage(0)
  const onAnswer = (answer: WriterAnswer): boolean => {
    switch (answer._tag) {
      case "recovered":
        for (const index of answer.indices) found.add(index)
        return false
      case "committed":
        for (const index of answer.indices) acknowledged.add(index)
        seconds = answer.elapsedMicros / 1e6
        counts = answer.counts
        plan.stage(acknowledged.size)
        return plan.killAfter !== undefined && acknowledged.size >= plan.killAfter
      default:
        return false
    }
  }
  const isKilled = yield* runWriterProcess(job, onAnswer)
  return { acknowledged, found, isKilled, seconds, ...counts }
})
