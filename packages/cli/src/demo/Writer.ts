/**
 * The process that commits: opens the database through Tidemark's layers, finds out what is committed already, and
 * commits the rest with many writers at once, saying of each transaction when it is durable.
 *
 * **Details**
 *
 * 1. What is committed is decided by the tokens in the ledger, read through the pager after recovery.
 * 2. What was acknowledged before is never committed again, even when recovery has lost it: the demo is to find that
 *    out, not to repair it.
 * 3. A transaction is announced only after its commit was answered, so after it is durable.
 *
 * @since 0.1.0
 */
import { Pager } from "@tidemark/coordinator/Pager"
import { invariant } from "@tidemark/core/Invariant"
import { toPageNumber } from "@tidemark/core/Scalars"
import * as Clock from "effect/Clock"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as NodeFs from "node:fs"
import { type EngineCounts, engineCounts, OpenLog, withEngine } from "../database.ts"
import { OperationFailed } from "../ExitCode.ts"
import * as CommitOrder from "../replay/CommitOrder.ts"
import { openRecordedWal } from "../replay/RecordedWal.ts"
import { writeRecorded } from "../replay/writeRecorded.ts"
import { reasonOf, sentenceOf } from "../Report.ts"
import * as Bank from "./Bank.ts"
import * as LeafRows from "./LeafRows.ts"
import * as Ledger from "./Ledger.ts"
import { answerDescriptor, encodeAnswer, type WriterAnswer, type WriterJob } from "./WriterProtocol.ts"

/** The column of a counter's value, behind its id. */
const valueColumn = 1

/**
 * Does a job, from recovery to the last checkpoint.
 *
 * @category running
 * @since 0.1.0
 */
export const runWriter = Effect.fnUntraced(function*(job: WriterJob) {
  const pipe = yield* openPipe
  const work = Effect.gen(function*() {
    const pager = yield* Pager
    const { checkpoint, startUpCases } = yield* OpenLog
    const ledger = yield* Ledger.open(pager, job.ledgerPages)
    const found = new Set(ledger.tokens.map((token) => Bank.indexOf(token, job)).filter((index) => index !== undefined))
    pipe.send({ _tag: "recovered", startUpCases, indices: [...found] })
    yield* commitRest(job, ledger, new Set([...found, ...job.acknowledged]), pipe)
    yield* checkpoint("truncate")
  })
  yield* withEngine(job.database, job.log, work).pipe(
    Effect.tapError((error) => Effect.sync(() => pipe.send({ _tag: "failed", sentence: sentenceOf(error) }))),
    Effect.raceFirst(pipe.broken)
  )
  // Only now everything is closed.
  pipe.send({ _tag: "finished" })
})

interface Pipe {
  readonly send: (answer: WriterAnswer) => void
  /** Fails when nobody reads any more. */
  readonly broken: Effect.Effect<never, OperationFailed>
}

const openPipe = Effect.sync((): Pipe => {
  const broken = Deferred.makeUnsafe<never, OperationFailed>()
  return {
    broken: Deferred.await(broken),
    send: (answer) => {
      const bytes = Buffer.from(encodeAnswer(answer))
      try {
        for (let sent = 0; sent < bytes.length;) sent += NodeFs.writeSync(answerDescriptor, bytes, sent)
      } catch (cause) {
        Deferred.doneUnsafe(
          broken,
          Effect.fail(new OperationFailed({ path: "pipe", sentence: `the demo is gone: ${reasonOf(cause)}` }))
        )
      }
    }
  }
})

const commitRest = Effect.fnUntraced(function*(
  job: WriterJob,
  ledger: Ledger.Ledger,
  isDone: ReadonlySet<number>,
  pipe: Pipe
) {
  const pager = yield* Pager
  const wal = yield* openRecordedWal(job.recordedWal)
  const work = makeWork(job, CommitOrder.make(wal.transactions, job.initialPages, (index) => isDone.has(index)), isDone)
  const announce = yield* makeAnnouncer(pipe)

  const writer = Effect.gen(function*() {
    const entries = ledger.makeWriter()
    const buffer = new Uint8Array(wal.pageSize)
    while (true) {
      const index = yield* work.take
      if (index === undefined) return
      const recorded = wal.transactions[index]
      const token = Bank.tokenOf(index, job.recorded)
      yield* pager.withTransaction((transaction) =>
        Effect.andThen(
          recorded === undefined
            ? addToCounter(transaction, counterPageOf(job, index))
            : writeRecorded(transaction, wal, recorded, job.initialPages, buffer),
          entries.enter(transaction, token)
        )
      )
      entries.keep()
      announce(index)
      work.complete(index)
    }
  })
  yield* Effect.all(Array.from({ length: job.writers }, () => writer), { concurrency: "unbounded", discard: true })
  // What was announced in this turn of the event loop is sent at its end.
  yield* Effect.yieldNow
}, Effect.scoped)

/** An addition knows its counter by its number. */
const counterPageOf = ({ counterPages, recorded }: WriterJob, index: number): number => {
  const page = counterPages[Bank.counterOf(index - recorded)]
  invariant(page !== undefined, "there is a counter for each addition")
  return page
}

const addToCounter = Effect.fnUntraced(function*(
  transaction: Parameters<Parameters<Pager["Service"]["withTransaction"]>[0]>[0],
  counterPage: number
) {
  const page = toPageNumber(counterPage)
  const bytes = yield* transaction.read(page)
  const [cell] = LeafRows.cellsOf(bytes, valueColumn)
  invariant(cell !== undefined, "a counter's page holds its row")
  LeafRows.addTo(bytes, cell, 1)
  yield* transaction.write(page, bytes)
})

/** Recorded transactions in their order, and an addition after every twenty of them; what is left of these at the end. */
const makeWork = (job: WriterJob, order: CommitOrder.CommitOrder, isDone: ReadonlySet<number>) => {
  const additions: Array<number> = []
  for (let index = job.recorded; index < job.recorded + job.additions; index++) {
    if (!isDone.has(index)) additions.push(index)
  }
  let sinceAddition = 0
  let nextAddition = 0
  return {
    take: Effect.suspend(() => {
      if (sinceAddition++ >= Bank.recordedPerAddition && nextAddition < additions.length) {
        sinceAddition = 0
        return Effect.succeed(additions[nextAddition++])
      }
      return Effect.map(order.take, (index) => index ?? additions[nextAddition++])
    }),
    complete: (index: number) => {
      if (index < job.recorded) order.complete(index)
    }
  }
}

/** Gathers what became durable in one turn of the event loop, and announces it in one write. */
const makeAnnouncer = Effect.fnUntraced(function*(pipe: Pipe) {
  const clock = yield* Clock.Clock
  const context = yield* Effect.context<never>()
  const startedAt = clock.monotonicTimeNanosUnsafe()
  let indices: Array<number> = []
  return (index: number) => {
    if (indices.push(index) > 1) return
    setImmediate(() => {
      const counts: EngineCounts = Effect.runSyncWith(context)(engineCounts)
      const elapsedMicros = Number((clock.monotonicTimeNanosUnsafe() - startedAt) / 1000n)
      pipe.send({ _tag: "committed", elapsedMicros, counts, indices })
      indices = []
    })
  }
})
