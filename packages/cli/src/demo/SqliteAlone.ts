/**
 * The comparison: the same transactions, run by SQLite alone, one after another, each durable before the next begins.
 *
 * @since 0.1.0
 */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import { withSqlite } from "../database.ts"
import * as Bank from "./Bank.ts"
import type { Recording } from "./Recording.ts"

/** A slow disk gets no more time than this; the speed is then that of the transactions so far. */
const maxSeconds = 10
const transactionsPerStep = 20

/**
 * @category models
 * @since 0.1.0
 */
export interface SqliteAlone {
  readonly commits: number
  readonly seconds: number
  /** Not all transactions were run: the time was over. */
  readonly isSample: boolean
}

/**
 * Runs the transactions of a recording on a copy of its base: WAL mode, `synchronous = FULL`, SQLite's own checkpoints,
 * prepared statements; transfers and additions in the mixture in which they were committed.
 *
 * @category running
 * @since 0.1.0
 */
export const runSqliteAlone = (recording: Recording, database: string, onProgress: (commits: number) => void) =>
  withSqlite(
    database,
    Effect.fnUntraced(function*(sqlite) {
      yield* sqlite.exec("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL")
      const run = yield* sqlite.step(Bank.prepareTransactions)
      const { additions, recorded } = recording.sizes
      const total = recorded + additions
      // In the order of the mixture: every twenty-first is an addition while there are any.
      const runOne = (position: number) => {
        const share = Bank.recordedPerAddition + 1
        const addition = Math.floor(position / share)
        const isAddition = position % share === share - 1 || position >= total - (additions - Math.floor(total / share))
        const index = isAddition ? recorded + addition : position - addition
        const token = Bank.tokenOf(index, recorded)
        const transfer = recording.transfers[index]
        if (transfer === undefined) run.addition(token, Bank.counterOf(addition) + 1, position + 1)
        else run.transfer(transfer, token, position + 1)
      }
      const startedAt = yield* Clock.monotonicTimeNanos
      let commits = 0
      let seconds = 0
      while (commits < total && seconds < maxSeconds) {
        const end = Math.min(total, commits + transactionsPerStep)
        yield* sqlite.step(() => {
          for (; commits < end; commits++) runOne(commits)
        })
        seconds = Number((yield* Clock.monotonicTimeNanos) - startedAt) / 1e9
        onProgress(commits)
        yield* Effect.yieldNow
      }
      return { commits, seconds, isSample: commits < total }
    })
  )
