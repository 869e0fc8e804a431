/** A native log on real files: killed processes, and stock SQLite before and after the checkpoint. */
import { assert, describe, it } from "@effect/vitest"
import { type CommitSeq, PageSize, toCommitSeq, toPageNumber } from "@tidemark/core/Scalars"
import * as NodeVfs from "@tidemark/platform/NodeVfs"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import { existsSync, readdirSync } from "node:fs"
import { join } from "node:path"
import type { LogEnded } from "../src/GroupCommit.ts"
import type * as NativeLog from "../src/NativeLog.ts"
import { startProgram, temporaryDirectory } from "./support/children.ts"
import { capsuleOf, commitOf, handOver, openNativeOn, stampOf } from "./support/nativeLog.ts"
import { expectedRows, inspectWithSqlite, readRecorded, recordTransactions } from "./support/sqliteRecording.ts"

const open = (database: string, options: Partial<NativeLog.NativeLogOptions> = {}) =>
  openNativeOn(NodeVfs.layer, { database, ...options })

const capsulesBeside = (path: string) => {
  const directory = `${path}.fsqlite/capsules`
  return existsSync(directory) ? readdirSync(directory) : []
}

/** SQLite's codes for "this is no database that I know" and "somebody else is in". */
const isRefused = (line: string | undefined) => line?.split(" ")[0] === "26"
const isLockedOut = (line: string | undefined) => ["5", "15"].includes(line?.split(" ")[0] ?? "")
const isKeptOut = (line: string | undefined) => isRefused(line) || isLockedOut(line)

/** Commits the transactions from `first` on that SQLite has recorded, in their order, several in flight. */
const replay = (path: string, opened: Effect.Success<ReturnType<typeof open>>, first: number, end: number) =>
  Effect.gen(function*() {
    let seq = opened.log.published().commitSeq
    const answers = yield* Effect.forEach(
      readRecorded(path).slice(first, end),
      ({ databasePages, pages }) =>
        Effect.gen(function*() {
          seq = toCommitSeq(seq + 1n)
          const written = new Map(Array.from(pages).sort(([a], [b]) => a - b))
          const capsule = capsuleOf(seq, written, databasePages, PageSize.make(opened.native.pageSize))
          yield* opened.capsules.put(capsule)
          const commit = commitOf(seq, written, databasePages, capsule)
          // It may settle while the next capsule is put, before anybody waits for it.
          const outcome = Deferred.makeUnsafe<CommitSeq, LogEnded>()
          handOver(opened, commit, () => {}, (exit) => Deferred.doneUnsafe(outcome, exit))
          return outcome
        })
    )
    yield* Effect.forEach(answers, (outcome) => Deferred.await(outcome))
    return opened.log.published().commitSeq
  })

describe.skipIf(process.platform !== "linux")("NativeLog on real files", () => {
  it.live.each(["passive", "full"] as const)(
    "PW-28 2.2: SQLite refuses the database until everything is in it, and finds every row then (%s)",
    (mode) =>
      Effect.gen(function*() {
        const directory = yield* temporaryDirectory
        const path = join(directory, "test.db")
        recordTransactions(path, 4096, 40)
        const opened = yield* open(path, { checkpointOnClose: false, autoCheckpointFrames: 0 })
        const child = yield* startProgram("sqliteLoop.ts", [path, "read", "anew"])
        assert.strictEqual(yield* replay(path, opened, 0, 20), toCommitSeq(20n))
        yield* child.until((lines) => lines.length > 3)
        assert.isTrue(child.lines.slice(1).every(isKeptOut), child.lines.join(", "))
        const seen = child.lines.length
        yield* opened.close
        assert.strictEqual(capsulesBeside(path).length, 20)
        // Nobody holds a lock now: it is the version bytes that keep it out, from the first line of that kind on.
        const unlocked = (lines: ReadonlyArray<string>) => lines.slice(seen).filter((line) => !isLockedOut(line))
        yield* child.until((lines) => unlocked(lines).length > 3)
        assert.isTrue(unlocked(child.lines).every(isRefused), child.lines.slice(seen).join(", "))
        assert.throws(() => inspectWithSqlite(path), /not a database/)

        const again = yield* open(path, { checkpointOnClose: false, autoCheckpointFrames: 10 })
        assert.strictEqual(again.native.startUp.case, "RC-06")
        assert.strictEqual(yield* replay(path, again, 20, 40), toCommitSeq(40n))
        yield* again.native.checkpoint(mode)
        assert.deepStrictEqual(capsulesBeside(path), [])
        yield* again.close
        if (mode === "passive") {
          assert.throws(() => inspectWithSqlite(path), /not a database/)
          yield* Effect.flatMap(open(path), ({ close }) => close)
        }
        yield* child.until((lines) => lines.at(-1)?.startsWith("0 ") === true)
        yield* child.kill
        const found = inspectWithSqlite(path)
        assert.deepStrictEqual(found.integrity, ["ok"])
        assert.deepStrictEqual(found.rows, expectedRows(40))
      }),
    60_000
  )

  it.live(
    "CO-09 CO-10 a process that is killed again and again loses nothing that it was acknowledged",
    () =>
      Effect.gen(function*() {
        const path = join(yield* temporaryDirectory, "test.db")
        const writers = 6
        const counts = new Map<number, number>()
        for (let round = 1; round <= 4; round++) {
          yield* Effect.scoped(Effect.gen(function*() {
            const child = yield* startProgram("nativeWriters.ts", [path, `${writers}`])
            yield* child.until((lines) => lines.length > 40 * round)
            yield* child.kill
            for (const line of child.lines) {
              const [page, count] = line.split(" ").map(Number)
              if (page !== undefined && count !== undefined) counts.set(page, count)
            }
          }))
          yield* Effect.scoped(Effect.gen(function*() {
            const opened = yield* open(path, { checkpointOnClose: round === 2 })
            assert.isUndefined(opened.native.startUp.damage)
            for (const [page, count] of counts) {
              const found = stampOf(opened, page)
              assert.isTrue(found === count || found === count + 1, `page ${page}: ${found} after ${count}`)
            }
            const { markers } = yield* opened.native.markers.verifyChain
            assert.strictEqual(BigInt(markers), opened.log.published().commitSeq + 1n)
            const reader = opened.log.openReader()
            assert.strictEqual((yield* reader.read(toPageNumber(2))).length, 512)
            reader.release()
          }))
        }
        assert.strictEqual(counts.size, writers)
      }),
    60_000
  )
})
