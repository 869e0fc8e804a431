import { assert, describe, it } from "@effect/vitest"
import * as SpillFile from "@tidemark/coordinator/SpillFile"
import { InvariantViolation } from "@tidemark/core/Invariant"
import { type PageNumber, PageSize, toPageNumber, TxnEpoch, TxnId, type TxnToken } from "@tidemark/core/Scalars"
import * as NodeVfs from "@tidemark/platform/NodeVfs"
import { Vfs } from "@tidemark/platform/Vfs"
import { Effect, Exit, Scope } from "effect"
import { statSync } from "node:fs"
import { temporaryDirectory } from "./support/temporaryDirectory.ts"

const pageSize = PageSize.make(512)
const page = (number: number): PageNumber => toPageNumber(number)
const token = (id: number | bigint, epoch = 0): TxnToken => ({
  id: TxnId.make(BigInt(id)),
  epoch: TxnEpoch.make(epoch)
})
const filled = (value: number): Uint8Array => new Uint8Array(pageSize).fill(value)

const setUp = Effect.gen(function*() {
  const vfs = yield* Vfs
  const database = `${yield* temporaryDirectory}/app.db`
  return { vfs, database, path: SpillFile.spillPath(database, token(7, 3)) }
})

const createIn = (vfs: Vfs["Service"], database: string) =>
  SpillFile.create(vfs, { database, token: token(7, 3), pageSize })

describe("SpillFile", () => {
  it.effect("CO-11 lies in a directory of its own, for its owner only, and is gone with its scope", () =>
    Effect.gen(function*() {
      const { database, path, vfs } = yield* setUp
      const scope = yield* Scope.make()
      yield* createIn(vfs, database).pipe(Scope.provide(scope))
      assert.strictEqual(path, `${database}.fsqlite-tmp/txn-7-3.spill`)
      assert.strictEqual(statSync(path).mode & 0o777, 0o600)
      assert.strictEqual(statSync(`${database}.fsqlite-tmp`).mode & 0o777, 0o700)

      const second = yield* Effect.flip(Effect.scoped(createIn(vfs, database)))
      assert.strictEqual(second.code, "EEXIST")
      assert.isDefined(yield* vfs.identify(path), "who failed to create it does not remove it")

      yield* Scope.close(scope, Exit.void)
      assert.isUndefined(yield* vfs.identify(path))
    }).pipe(Effect.provide(NodeVfs.layer)))

  it.effect("CO-11 reads back what was written, alone, at once and from another opening", () =>
    Effect.gen(function*() {
      const { database, vfs } = yield* setUp
      const spill = yield* createIn(vfs, database)
      // More than two read buffers of 1 MiB.
      const pages = Array.from({ length: 5000 }, (_, n) => [page(n + 1), filled(n % 251)] as const)
      const entries = yield* spill.write(pages)
      assert.strictEqual(spill.bytes, 5000 * pageSize)

      const other = yield* SpillFile.open(vfs, { database, token: token(7, 3), pageSize })
      for (const reader of [spill, other]) {
        const found = new Map<PageNumber, number>()
        yield* reader.readAll(entries.toReversed().filter((entry) => entry.page % 7 !== 0), (entry, bytes) => {
          assert.isTrue(bytes.every((byte) => byte === (entry.page - 1) % 251))
          found.set(entry.page, bytes.length)
        })
        assert.strictEqual(found.size, 5000 - Math.floor(5000 / 7))
        yield* reader.readAll(entries)
        for (const entry of [entries[0], entries[4999]]) {
          assert.isDefined(entry)
          const expected = filled((entry.page - 1) % 251)
          assert.deepStrictEqual(yield* reader.read(entry), expected)
          const buffer = filled(255)
          reader.readSync(entry, buffer)
          assert.deepStrictEqual(buffer, expected)
        }
      }
    }).pipe(Effect.provide(NodeVfs.layer)))

  it.effect("CO-11 slots that were given back are used again before the file grows", () =>
    Effect.gen(function*() {
      const { database, vfs } = yield* setUp
      const spill = yield* createIn(vfs, database)
      const first = yield* spill.write([1, 2, 3, 4].map((n) => [page(n), filled(n)] as const))
      for (const entry of first.toReversed()) if (entry.page === 2 || entry.page === 3) spill.release(entry)
      const second = yield* spill.write([10, 11, 12].map((n) => [page(n), filled(n)] as const))
      assert.deepStrictEqual(second.map((entry) => entry.offset), [512, 1024, 2048])
      assert.strictEqual(spill.bytes, 5 * pageSize)
      const live = [...first.filter((entry) => entry.page === 1 || entry.page === 4), ...second]
      const read: Array<number> = []
      yield* spill.readAll(live, (entry, bytes) => {
        assert.deepStrictEqual(bytes, filled(entry.page))
        read.push(entry.page)
      })
      assert.deepStrictEqual(read, [1, 10, 11, 4, 12])
    }).pipe(Effect.provide(NodeVfs.layer)))

  it.effect("CO-11 a flipped bit, a short file and a wrong length are SpillCorrupt", () =>
    Effect.gen(function*() {
      const { database, path, vfs } = yield* setUp
      const spill = yield* createIn(vfs, database)
      const entries = yield* spill.write([1, 2, 3].map((n) => [page(n), filled(n)] as const))
      const [first, second, third] = entries
      assert.isDefined(first)
      assert.isDefined(second)
      assert.isDefined(third)
      const file = yield* vfs.open(path, { access: "readWrite" })

      const assertCorrupt = (damaged: SpillFile.SpillEntry) =>
        Effect.gen(function*() {
          const asked = yield* Effect.flip(spill.read(damaged))
          const swept = yield* Effect.flip(
            spill.readAll([first, second, third].map((e) => e.page === damaged.page ? damaged : e))
          )
          for (const error of [asked, swept]) {
            assert.strictEqual(error._tag, "SpillCorrupt")
            if (error._tag !== "SpillCorrupt") continue
            assert.strictEqual(error.path, path)
            assert.strictEqual(error.page, damaged.page)
            assert.strictEqual(error.offset, damaged.offset)
          }
          assert.throws(() => spill.readSync(damaged, new Uint8Array(pageSize)), /is damaged/)
        })

      yield* assertCorrupt({ ...second, length: 1024 })
      yield* assertCorrupt({ ...second, checksum: second.checksum ^ 1n })
      yield* file.write([Uint8Array.of(2 ^ 0x80)], 512 + 100)
      yield* assertCorrupt(second)
      yield* file.write([filled(2)], 512)
      yield* spill.readAll(entries)
      yield* file.truncate(3 * 512 - 1)
      yield* assertCorrupt(third)
      assert.throws(() => spill.readSync(third, filled(3)), /is damaged/, "the buffer held the right bytes by chance")
      assert.deepStrictEqual(yield* spill.read(second), filled(2), "the other pages are not touched")
    }).pipe(Effect.provide(NodeVfs.layer)))

  it.effect("CO-11 a page of another size is a defect", () =>
    Effect.gen(function*() {
      const { database, vfs } = yield* setUp
      const spill = yield* createIn(vfs, database)
      const exit = yield* Effect.exit(spill.write([[page(1), new Uint8Array(1024)]]))
      assert.isTrue(Exit.hasDies(exit))
      const [entry] = yield* spill.write([[page(1), filled(1)]])
      assert.isDefined(entry)
      assert.throws(() => spill.readSync(entry, new Uint8Array(1024)), InvariantViolation)
    }).pipe(Effect.provide(NodeVfs.layer)))

  it.effect("RC-19 spill files of the dead are swept, others and other names are not", () =>
    Effect.gen(function*() {
      const { database, vfs } = yield* setUp
      assert.deepStrictEqual(yield* SpillFile.sweep(vfs, database, () => false), [])
      const directory = SpillFile.spillDirectory(database)
      yield* vfs.makeDirectory(directory, { mode: 0o700 })
      const names = ["txn-1-0.spill", "txn-2-5.spill", "txn-2-6.spill", "notes.txt", "txn-0-0.spill", "txn-01-0.spill"]
      for (const name of names) {
        yield* Effect.scoped(vfs.open(`${directory}/${name}`, { access: "readWrite", create: "exclusive" }))
      }
      const swept = yield* SpillFile.sweep(vfs, database, (owner) => owner.id === 2n && owner.epoch === 5)
      assert.deepStrictEqual(swept, ["txn-1-0.spill", "txn-2-6.spill"])
      assert.deepStrictEqual(yield* vfs.list(directory), [
        "notes.txt",
        "txn-0-0.spill",
        "txn-01-0.spill",
        "txn-2-5.spill"
      ])
    }).pipe(Effect.provide(NodeVfs.layer)))

  it("CO-11 the name says whose it is", () => {
    const largest = token(2n ** 62n - 1n, 0xffffffff)
    const name = SpillFile.spillPath("a.db", largest).split("/")[1]
    assert.deepStrictEqual(SpillFile.tokenOfName(name ?? ""), largest)
    for (
      const wrong of [
        "txn-1-0.spill2",
        "txn-1.spill",
        "txn-1--1.spill",
        "txn-4611686018427387904-0.spill",
        "txn-1-4294967296.spill"
      ]
    ) assert.isUndefined(SpillFile.tokenOfName(wrong), wrong)
  })
})
