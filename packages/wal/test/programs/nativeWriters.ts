/**
 * Commits to a native log until it is killed: `nativeWriters.ts DATABASE WRITERS`. Each writer has a page of its own and
 * counts it up. What is acknowledged is said, a line each: the page and its count.
 */
import { toCommitSeq, toPageNumber } from "@tidemark/core/Scalars"
import * as NodeVfs from "@tidemark/platform/NodeVfs"
import { Deferred, Effect, Exit } from "effect"
import type { LogEnded } from "../../src/GroupCommit.ts"
import { capsuleOf, commitOf, handOver, openNativeOn, pageSize } from "../support/nativeLog.ts"
import { filledPage } from "../support/pages.ts"

const [database = "", count = "8"] = process.argv.slice(2)
const writers = Number(count)

const program = Effect.gen(function*() {
  const opened = yield* openNativeOn(NodeVfs.layer, { database, create: { pageSize }, autoCheckpointFrames: 50 })
  const databasePages = 1 + writers
  let transactions = opened.native.lastTxnId
  let next = opened.log.published().commitSeq + 1n
  const countOf = (page: number): number => {
    const reader = opened.log.openReader()
    try {
      return page > reader.databasePages ? 0 : Buffer.from(reader.readSync(toPageNumber(page))).readUInt32BE(4)
    } finally {
      reader.release()
    }
  }
  // The first commit makes room for everybody.
  const write = (pages: ReadonlyArray<number>, stamp: number) =>
    Effect.gen(function*() {
      const written = new Map(pages.map((page) => [page, filledPage(pageSize, page, stamp)]))
      // The identity of a transaction is its own; its sequence is given to it when it is handed over.
      const capsule = capsuleOf(toCommitSeq(++transactions), written, databasePages)
      yield* opened.capsules.put(capsule)
      const outcome = Deferred.makeUnsafe<unknown, LogEnded>()
      handOver(
        opened,
        commitOf(toCommitSeq(next++), written, databasePages, capsule),
        () => {},
        (exit) => Deferred.doneUnsafe(outcome, exit)
      )
      yield* Deferred.await(outcome)
    })
  const all = Array.from({ length: writers }, (_, writer) => 2 + writer)
  if (opened.log.published().databasePages < databasePages) yield* write(all, 0)
  process.stdout.write("ready\n")
  yield* Effect.forEach(all, (page) =>
    Effect.gen(function*() {
      for (let stamp = countOf(page) + 1;; stamp++) {
        yield* write([page], stamp)
        process.stdout.write(`${page} ${stamp}\n`)
      }
    }), { concurrency: "unbounded", discard: true })
})

await Effect.runPromise(
  Effect.exit(Effect.scoped(program)).pipe(Effect.tap((exit) =>
    Effect.sync(() => {
      if (Exit.isFailure(exit)) process.stderr.write(`${String(exit.cause)}\n`)
    })
  ))
)
