/**
 * The main job: record what SQLite writes, commit it with many writers, kill the process that commits, recover, commit
 * the rest, and let SQLite judge.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import * as Random from "effect/Random"
import type { DatabaseLog } from "../database.ts"
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
  /** What the transactions are committed through. */
  readonly log: DatabaseLog
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
  /** The rows of the start-up table that applied then; none when the process did not live to say so. */
  readonly startUpCases: ReadonlyArray<string>
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

/** From which part of the acknowledgements on the process is killed, when the moment is drawn. */
const leastShare = 0.02
/** What is drawn above 1 means: after the last one, while the last checkpoint runs. */
const mostShare = 1.2
/**
 * Commits that one sync has made durable are acknowledged together, so a kill at an acknowledgement always hits the
 * writers while they begin anew. Every other one that is drawn comes up to this much later, whatever is half written
 * then: a batch, a segment, a certificate, a checkpoint.
 */
const maxKillDelayMillis = 15

interface Kill {
  /** So many acknowledgements trigger it. */
  readonly after: number
  readonly delayMillis: number
}

const drawKill = Effect.fnUntraced(function*(kill: DemoOptions["kill"], total: number): Effect.fn.Return<Kill> {
  const share = kill === "random" ? yield* Random.nextBetween(leastShare, mostShare) : kill
  return {
    after: Math.max(1, Math.floor(Math.min(share, 1) * total)),
    delayMillis: kill === "random" ? Math.max(0, yield* Random.nextBetween(-maxKillDelayMillis, maxKillDelayMillis)) : 0
  }
})

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
  const kill = options.kill === 0 ? undefined : yield* drawKill(options.kill, total)

  const first = yield* commit(jobOf(options, recording, recorded.transactions, database, new Set()), {
    kill,
    stage: showCommits(stage, "committing", 0, total)
  })
  const second = !first.isKilled ? undefined : yield* commit(
    jobOf(options, recording, recorded.transactions, database, first.acknowledged),
    { kill: undefined, stage: showCommits(stage, "recovering", first.acknowledged.size, total) }
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
  { log, writers }: DemoOptions,
  recording: Recording,
  recorded: ReadonlyArray<RecordedTransaction>,
  database: string,
  acknowledged: ReadonlySet<number>
): WriterJob => ({
  database,
  log,
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
  readonly kill: Kill | undefined
  readonly stage: (done: number) => void
}): Effect.fn.Return<Run, OperationFailed> {
  const acknowledged = new Set<number>()
  const found = new Set<number>()
  let startUpCases: ReadonlyArray<string> = []
  let seconds = 0
  let counts = { syncs: 0, conflicts: 0, retries: 0 }
  plan.stage(0)
  const onAnswer = (answer: WriterAnswer): number | undefined => {
    switch (answer._tag) {
      case "recovered":
        startUpCases = answer.startUpCases
        for (const index of answer.indices) found.add(index)
        return undefined
      case "committed":
        for (const index of answer.indices) acknowledged.add(index)
        seconds = answer.elapsedMicros / 1e6
        counts = answer.counts
        plan.stage(acknowledged.size)
        return plan.kill !== undefined && acknowledged.size >= plan.kill.after ? plan.kill.delayMillis : undefined
      default:
        return undefined
    }
  }
  const isKilled = yield* runWriterProcess(job, onAnswer)
  return { acknowledged, found, startUpCases, isKilled, seconds, ...counts }
})
