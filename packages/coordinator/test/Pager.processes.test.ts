/**
 * A process that commits, and one that looks on: what the header says in another process is durable, whenever the one
 * that commits is killed.
 */
import { assert, describe, it } from "@effect/vitest"
import { offsets } from "@tidemark/coordinator/SharedHeaderFormat"
import { toCommitSeq } from "@tidemark/core/Scalars"
import { Clock, Effect, Random } from "effect"
import { commitPages, outcomeOf, published } from "./support/database.ts"
import { startProgram } from "./support/headerFiles.ts"
import { durableAt } from "./support/headerStates.ts"
import { LogUnderTest, nativeLog, parallelWal, sqliteWal } from "./support/logs.ts"
import { sumOf } from "./support/sharedCounters.ts"
import { fileWorld, openReader, openShared } from "./support/sharedWorlds.ts"

const kills = 2

describe("Pager: processes that share a header", () => {
  for (const log of [sqliteWal, parallelWal, nativeLog]) {
    it.live(
      `SHM-04 RC-17 SHM-10 what another process has seen is there after the writer was killed (${log.name})`,
      () =>
        Effect.gen(function*() {
          const world = yield* fileWorld
          const reader = yield* openReader(world)
          // Commits that are no counts: those that make the database larger.
          let others = 0n
          let lastId = 0n
          for (let kill = 0; kill < kills; kill++) {
            const writer = yield* startProgram("sharedWriter.ts", [log.name, world.database])
            const [word, opened = "", first = ""] = (yield* writer.line).split(" ")
            assert.strictEqual(word, "open")
            assert.isAbove(Number(first), Number(lastId), "no transaction id comes twice")
            if (kill === 0) others = BigInt(opened)
            // It may have been the one that made the header.
            yield* reader.refresh
            let seen = (yield* reader.snapshot).commitSeq
            const enough = BigInt(opened) + BigInt(yield* Random.nextIntBetween(20, 60))
            const deadline = (yield* Clock.currentTimeMillis) + 20_000
            while (seen < enough && (yield* Clock.currentTimeMillis) < deadline) {
              const { commitSeq } = yield* reader.snapshot
              assert.isFalse(commitSeq < seen, "a snapshot does not go back")
              seen = commitSeq
              yield* Effect.yieldNow
            }
            assert.isFalse(seen < enough, "the writer commits, and the reader sees it")
            if (kill === 0) {
              // What else can be done here meanwhile: nothing that writes.
              assert.strictEqual(yield* outcomeOf(Effect.scoped(openShared(world))), "LogLocked")
              assert.strictEqual(yield* outcomeOf(Effect.scoped(reader.becomePublisher(durableAt(0)))), "Busy")
            }
            yield* writer.kill
            // What it published last may not have been seen yet.
            const left = reader.snapshotUnsafe()
            if (left !== undefined) {
              assert.isFalse(left.commitSeq < seen)
              seen = left.commitSeq
            }
            lastId = reader.region().load(offsets.nextTxnId) - 1n

            yield* Effect.scoped(Effect.gen(function*() {
              const database = yield* openShared(world)
              const tip = published(database)
              const { recoveredTip, wasRecovered } = database.control
              assert.isFalse(recoveredTip < seen, "everything that was seen is there")
              assert.strictEqual((yield* reader.snapshot).commitSeq, tip, "the header says what the log says")
              const sum = yield* Effect.scoped(Effect.flatMap(database.pager.begin(), sumOf))
              // The parallel log can use up sequences by commits that never counted, and that nobody has seen.
              let commits = 0n
              for (let seq = 1n; seq <= tip; seq++) if (wasRecovered(toCommitSeq(seq))) commits++
              assert.strictEqual(sum, commits - others, "every commit is there once")
              // The next life has one more commit that counts nothing.
              yield* commitPages(database, [6])
              others++
              assert.strictEqual((yield* reader.snapshot).commitSeq, tip + 1n)
            }))
          }
        }).pipe(Effect.scoped, Effect.provideService(LogUnderTest, log)),
      60_000
    )
  }
})
