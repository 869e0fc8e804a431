/** A database that was cut short while it was made is made again, by whichever log: nothing was in it. */
import { assert, describe, it } from "@effect/vitest"
import { PageSize, toPageNumber } from "@tidemark/core/Scalars"
import { MemoryDisk } from "@tidemark/platform/MemoryDisk"
import { Effect, type Scope } from "effect"
import type { SequencedLog } from "../src/CommitLog.ts"
import { emptyDatabasePage1 } from "../src/DatabaseHeaderFormat.ts"
import { openByHand as openNative } from "./support/nativeLog.ts"
import { openByHand as openParallel } from "./support/parallelWal.ts"
import { memoryPath, openMemory, prepareDisk } from "./support/sqliteWal.ts"

const pageSize = PageSize.make(1024)
const create = { pageSize }

type OpenAnew = (disk: MemoryDisk) => Effect.Effect<SequencedLog<never>, unknown, Scope.Scope>

const logs: ReadonlyArray<readonly [name: string, open: OpenAnew]> = [
  ["SQLite WAL", (disk) => Effect.map(openMemory(disk, { create }), ({ log }) => log)],
  ["parallel log", (disk) => Effect.map(openParallel(disk, { create }), ({ log }) => log)],
  ["native log", (disk) => Effect.map(openNative(disk, { create }), ({ log }) => log)]
]

describe("a creation that was cut short", () => {
  for (const [name, open] of logs) {
    it.effect(`RC-01 its first bytes alone are no database yet (${name})`, () =>
      Effect.gen(function*() {
        const page1 = emptyDatabasePage1(pageSize)
        for (const bytes of [1, 16, 18, 99, 100, 101, 512, pageSize - 1]) {
          const disk = prepareDisk(MemoryDisk.make({ async: false }))
          disk.writeFile(memoryPath, page1.slice(0, bytes))
          yield* Effect.scoped(Effect.gen(function*() {
            const reader = (yield* open(disk)).openReader()
            assert.strictEqual(reader.databasePages, 1, `${bytes} bytes`)
            assert.deepStrictEqual(reader.readSync(toPageNumber(1)), page1)
            reader.release()
          }))
          assert.strictEqual(disk.readFile(memoryPath)?.length, pageSize)
        }
      }))

    it.effect(`RC-01 a short file with anything else in it is not made anew (${name})`, () =>
      Effect.gen(function*() {
        const bytes = emptyDatabasePage1(pageSize).slice(0, 200)
        bytes[150] = 7
        const disk = prepareDisk(MemoryDisk.make({ async: false }))
        disk.writeFile(memoryPath, bytes)
        yield* Effect.ignore(Effect.scoped(open(disk)))
        assert.deepStrictEqual(disk.readFile(memoryPath), bytes)
      }))
  }
})
