import { assert, describe, it } from "@effect/vitest"
import { spillPath } from "@tidemark/coordinator/SpillFile"
import * as WriteSet from "@tidemark/coordinator/WriteSet"
import { InvariantViolation } from "@tidemark/core/Invariant"
import { type PageNumber, PageSize, toPageNumber, TxnEpoch, TxnId } from "@tidemark/core/Scalars"
import * as MemoryVfs from "@tidemark/platform/MemoryVfs"
import * as NodeVfs from "@tidemark/platform/NodeVfs"
import { Effect, Exit, Fiber, Scope } from "effect"
import fc from "fast-check"
import { temporaryDirectory } from "./support/temporaryDirectory.ts"

const pageSize = PageSize.make(512)
const mebibyte = 1024 * 1024
const token = { id: TxnId.make(7n), epoch: TxnEpoch.make(3) }
const page = (number: number): PageNumber => toPageNumber(number)
const pages = (...numbers: ReadonlyArray<number>): ReadonlyArray<PageNumber> => numbers.map(page)
const filled = (value: number): Uint8Array => new Uint8Array(pageSize).fill(value)

/** A set that keeps `pagesInMemory` pages in memory. */
const make = (pagesInMemory: number, database = "/app.db") =>
  WriteSet.make({ database, token, pageSize, spillThresholdBytes: pagesInMemory * pageSize })
const path = spillPath("/app.db", token)

/** Runs a test over a disk of its own. */
const onDisk = (
  test: (
    disk: MemoryVfs.MemoryDisk
  ) => Effect.Effect<void, unknown, Scope.Scope | Effect.Services<ReturnType<typeof make>>>
) =>
() => {
  const disk = MemoryVfs.MemoryDisk.make()
  return Effect.provide(test(disk), MemoryVfs.layerDisk(disk))
}

describe("WriteSet", () => {
  it("CO-11 the threshold is 32 MiB, or four times the cache within 32 MiB and 512 MiB", () => {
    assert.strictEqual(WriteSet.defaultSpillThresholdBytes, 32 * mebibyte)
    for (const [cache, threshold] of [[0, 32], [8, 32], [9, 36], [64, 256], [128, 512], [1000, 512]] as const) {
      assert.strictEqual(WriteSet.spillThreshold(cache * mebibyte), threshold * mebibyte)
    }
  })

  it.effect(
    "CO-11 up to the threshold everything is in memory, and the effects are finished ones",
    onDisk((disk) =>
      Effect.gen(function*() {
        const writes = yield* make(3)
        for (const number of [30, 10, 20]) {
          assert.isTrue(Exit.isExit(writes.put(page(number), filled(number))))
        }
        assert.isTrue(Exit.isExit(writes.get(page(10))))
        assert.isTrue(Exit.isExit(writes.get(page(11))))
        assert.strictEqual(writes.size, 3)
        assert.strictEqual(writes.bytes, 3 * 512)
        assert.isFalse(writes.isSpilled)
        assert.deepStrictEqual(writes.pagesAscending(), pages(10, 20, 30))
        assert.deepStrictEqual(yield* writes.get(page(20)), filled(20))
        assert.deepStrictEqual(writes.getSync(page(30)), filled(30))
        assert.isUndefined(writes.getSync(page(11)))
        yield* writes.verify
        assert.deepStrictEqual(disk.files, [])
      })
    )
  )

  it.effect(
    "CO-11 above the threshold pages move into the file, where the last write wins",
    onDisk((disk) =>
      Effect.gen(function*() {
        const scope = yield* Scope.make()
        const writes = yield* make(3).pipe(Scope.provide(scope))
        for (const number of [30, 10, 20, 40]) yield* writes.put(page(number), filled(number))
        assert.isTrue(writes.isSpilled)
        assert.strictEqual(writes.memoryBytes, 0)
        assert.strictEqual(writes.size, 4)
        assert.deepStrictEqual(disk.files, [path])

        yield* writes.put(page(10), filled(11))
        assert.strictEqual(writes.size, 4)
        assert.isTrue(writes.delete(page(20)))
        assert.isFalse(writes.delete(page(20)))
        assert.isFalse(writes.has(page(20)))
        assert.deepStrictEqual(writes.pagesAscending(), pages(10, 30, 40))
        for (const number of [51, 52, 53]) yield* writes.put(page(number), filled(number))
        assert.strictEqual(writes.memoryBytes, 0)
        assert.strictEqual(disk.readFile(path)?.length, 6 * 512, "two freed slots were used again")

        for (const [number, value] of [[10, 11], [30, 30], [40, 40], [53, 53]] as const) {
          assert.deepStrictEqual(yield* writes.get(page(number)), filled(value))
          assert.deepStrictEqual(writes.getSync(page(number)), filled(value))
          assert.deepStrictEqual(writes.image(page(number)), filled(value))
        }
        assert.throws(() => writes.image(page(20)), InvariantViolation)
        yield* writes.verify
        yield* Scope.close(scope, Exit.void)
        assert.deepStrictEqual(disk.files, [])
      })
    )
  )

  it.effect(
    "CO-11 what is put is a copy, also of a Node Buffer",
    onDisk(() =>
      Effect.gen(function*() {
        const writes = yield* make(10)
        const given = Buffer.from(filled(1))
        yield* writes.put(page(1), given)
        given.fill(2)
        assert.deepStrictEqual(Uint8Array.from(writes.getSync(page(1)) ?? []), filled(1))
      })
    )
  )

  it.effect(
    "CO-11 pages of another size are a defect: the size is never guessed",
    onDisk(() =>
      Effect.gen(function*() {
        const writes = yield* make(10)
        assert.throws(() => writes.put(page(1), new Uint8Array(511)), InvariantViolation)
        assert.throws(() => writes.put(page(1), new Uint8Array(1024)), InvariantViolation)
        assert.throws(() => writes.adopt(new Map([[page(1), new Uint8Array(1024)]])), InvariantViolation)
        assert.strictEqual(writes.size, 0)
      })
    )
  )

  it.effect(
    "CO-11 a damaged page is SpillCorrupt for whoever reads it and for the whole commit",
    onDisk((disk) =>
      Effect.gen(function*() {
        const writes = yield* make(1)
        for (const number of [1, 2]) yield* writes.put(page(number), filled(number))
        const bytes = disk.readFile(path)
        assert.isDefined(bytes)
        bytes[512] = 0x55
        disk.writeFile(path, bytes)
        const isThat = (error: unknown) =>
          assert.deepInclude(error, { _tag: "SpillCorrupt", path, page: page(2), offset: 512, sqliteCode: 11 })
        isThat(yield* Effect.flip(writes.verify))
        isThat(yield* Effect.flip(writes.get(page(2))))
        isThat(yield* Effect.flip(writes.take))
        assert.throws(() => writes.getSync(page(2)), /damaged/)
        assert.throws(() => writes.image(page(2)), /damaged/)
        assert.deepStrictEqual(yield* writes.get(page(1)), filled(1))
        assert.strictEqual(writes.size, 2)
        disk.writeFile(path, bytes.subarray(0, 512))
        isThat(yield* Effect.flip(writes.verify))
        yield* writes.clear
        assert.deepStrictEqual(disk.files, [])
      })
    )
  )

  it.effect(
    "CO-11 a failed spill loses no page and can be tried again",
    onDisk((disk) =>
      Effect.gen(function*() {
        const writes = yield* make(1)
        yield* writes.put(page(1), filled(1))
        const noDirectory = disk.inject({ operation: "makeDirectory", fault: { kind: "error", code: "EACCES" } })
        assert.strictEqual((yield* Effect.flip(writes.put(page(2), filled(2)))).code, "EACCES")
        assert.strictEqual(noDirectory.hits, 1)
        disk.inject({ operation: "write", fault: { kind: "shortWrite", bytes: 600 } })
        assert.strictEqual((yield* Effect.flip(writes.put(page(3), filled(3)))).code, "ENOSPC")
        assert.strictEqual(writes.memoryBytes, 3 * 512)
        for (const number of [1, 2, 3]) assert.deepStrictEqual(writes.getSync(page(number)), filled(number))
        yield* writes.put(page(4), filled(4))
        assert.strictEqual(writes.memoryBytes, 0)
        assert.strictEqual(disk.readFile(path)?.length, 4 * 512)
        yield* writes.verify
      })
    )
  )

  it.effect(
    "CO-11 what is written, deleted and read while a spill is in flight is not torn",
    onDisk((disk) =>
      Effect.gen(function*() {
        const writes = yield* make(2)
        for (const number of [1, 2]) yield* writes.put(page(number), filled(number))
        const hold = disk.hold({ operation: "write", path })
        const spill = yield* Effect.forkChild(writes.put(page(3), filled(3)), { startImmediately: true })
        yield* hold.reached
        // A writer that cannot await: the effect of `put` is not run.
        void writes.put(page(1), filled(101))
        assert.isTrue(writes.delete(page(2)))
        assert.deepStrictEqual(writes.getSync(page(3)), filled(3))
        yield* hold.release
        yield* Fiber.join(spill)

        assert.deepStrictEqual(writes.pagesAscending(), pages(1, 3))
        assert.deepStrictEqual(writes.getSync(page(1)), filled(101))
        assert.deepStrictEqual(writes.getSync(page(3)), filled(3))
        assert.isUndefined(writes.getSync(page(2)))
        assert.strictEqual(writes.memoryBytes, 512)
        yield* writes.verify
      })
    )
  )

  it.effect(
    "CO-11 a second writer above the threshold waits for the first one's file",
    onDisk((disk) =>
      Effect.gen(function*() {
        const writes = yield* make(1)
        yield* writes.put(page(1), filled(1))
        const hold = disk.hold({ operation: "open", path })
        const first = yield* Effect.forkChild(writes.put(page(2), filled(2)), { startImmediately: true })
        yield* hold.reached
        const second = yield* Effect.forkChild(writes.put(page(3), filled(3)), { startImmediately: true })
        yield* hold.release
        yield* Fiber.join(first)
        yield* Fiber.join(second)
        assert.deepStrictEqual(writes.pagesAscending(), pages(1, 2, 3))
        assert.strictEqual(disk.readFile(path)?.length, 3 * 512)
        yield* writes.verify
      })
    )
  )

  it.effect(
    "CO-11 a read whose slot is given to another page meanwhile answers the page",
    onDisk((disk) =>
      Effect.gen(function*() {
        const writes = yield* make(1)
        for (const number of [1, 2]) yield* writes.put(page(number), filled(number))
        const hold = disk.hold({ operation: "read", path })
        const read = yield* Effect.forkChild(writes.get(page(1)), { startImmediately: true })
        yield* hold.reached
        yield* writes.put(page(1), filled(101))
        yield* writes.put(page(9), filled(9))
        assert.strictEqual(writes.memoryBytes, 0)
        yield* hold.release
        assert.deepStrictEqual(yield* Fiber.join(read), filled(101))
      })
    )
  )

  it.effect(
    "CO-11 clearing waits for a spill in flight and leaves no file",
    onDisk((disk) =>
      Effect.gen(function*() {
        const writes = yield* make(1)
        yield* writes.put(page(1), filled(1))
        const hold = disk.hold({ operation: "write", path })
        const spill = yield* Effect.forkChild(writes.put(page(2), filled(2)), { startImmediately: true })
        yield* hold.reached
        const clear = yield* Effect.forkChild(writes.clear, { startImmediately: true })
        yield* hold.release
        yield* Fiber.join(spill)
        yield* Fiber.join(clear)
        assert.strictEqual(writes.size, 0)
        assert.deepStrictEqual(disk.files, [])
        for (const number of [5, 6]) yield* writes.put(page(number), filled(number))
        assert.deepStrictEqual(writes.getSync(page(5)), filled(5))
        yield* writes.close
        assert.deepStrictEqual(disk.files, [])
        assert.throws(() => writes.put(page(1), filled(1)), InvariantViolation)
      })
    )
  )

  it.effect(
    "CO-11 all pages go into the file for another process",
    onDisk((disk) =>
      Effect.gen(function*() {
        const writes = yield* make(10)
        assert.deepStrictEqual(yield* writes.spillAll, [])
        for (const number of [30, 10, 20]) yield* writes.put(page(number), filled(number))
        const entries = yield* writes.spillAll
        assert.deepStrictEqual(entries.map((entry) => [entry.page, entry.offset, entry.length]), [
          [page(10), 512, 512],
          [page(20), 1024, 512],
          [page(30), 0, 512]
        ])
        assert.strictEqual(disk.readFile(path)?.length, 3 * 512)
        assert.deepStrictEqual(yield* writes.spillAll, entries)
      })
    )
  )

  for (const pagesInMemory of [1, 100]) {
    it.effect(
      `PG-10 is taken out, cleared and handed on (${pagesInMemory === 1 ? "spilled" : "in memory"})`,
      onDisk((disk) =>
        Effect.gen(function*() {
          const first = yield* make(pagesInMemory)
          for (const number of [3, 1, 2]) yield* first.put(page(number), filled(number))
          yield* first.put(page(2), filled(22))
          const taken = yield* first.take
          assert.strictEqual(first.size, 0)
          assert.deepStrictEqual(disk.files, [])
          assert.deepStrictEqual(
            Array.from(taken).sort(([a], [b]) => a - b),
            [[page(1), filled(1)], [page(2), filled(22)], [page(3), filled(3)]]
          )

          const second = yield* make(pagesInMemory, "/other.db")
          yield* second.put(page(1), filled(77))
          yield* second.put(page(4), filled(4))
          yield* second.adopt(taken)
          assert.deepStrictEqual(second.pagesAscending(), pages(1, 2, 3, 4))
          assert.deepStrictEqual(yield* second.get(page(1)), filled(1))
          assert.strictEqual(second.isSpilled, pagesInMemory === 1)
          yield* first.put(page(1), filled(9))
          assert.deepStrictEqual(yield* second.get(page(1)), filled(1))
        })
      )
    )
  }

  it.effect("CO-11 agrees with a map, whatever is spilled", () =>
    Effect.promise(() => {
      const number = fc.integer({ min: 1, max: 8 })
      const step = fc.oneof(
        { weight: 8, arbitrary: fc.record({ type: fc.constant("put" as const), number, value: fc.nat(255) }) },
        { weight: 3, arbitrary: fc.record({ type: fc.constant("delete" as const), number }) },
        {
          weight: 1,
          arbitrary: fc.record({ type: fc.constantFrom("clear" as const, "spillAll" as const, "take" as const) })
        }
      )
      const property = fc.asyncProperty(fc.array(step, { maxLength: 60 }), fc.nat(4), (steps, pagesInMemory) => {
        const disk = MemoryVfs.MemoryDisk.make({ async: false })
        return Effect.gen(function*() {
          const writes = yield* make(pagesInMemory)
          const model = new Map<number, number>()
          for (const action of steps) {
            if (action.type === "put") {
              yield* writes.put(page(action.number), filled(action.value))
              model.set(action.number, action.value)
            } else if (action.type === "delete") {
              assert.strictEqual(writes.delete(page(action.number)), model.delete(action.number))
            } else if (action.type === "clear") {
              yield* writes.clear
              model.clear()
            } else if (action.type === "spillAll") {
              assert.strictEqual((yield* writes.spillAll).length, model.size)
              assert.strictEqual(writes.memoryBytes, 0)
            } else {
              const taken = yield* writes.take
              assert.strictEqual(writes.size, 0)
              yield* writes.adopt(taken)
            }
            assert.isAtMost(writes.memoryBytes, pagesInMemory * pageSize)
            assert.isAtMost(disk.readFile(path)?.length ?? 0, 2 * 8 * pageSize)
            assert.deepStrictEqual(writes.pagesAscending(), pages(...Array.from(model.keys()).sort((a, b) => a - b)))
            assert.strictEqual(writes.size, model.size)
            for (const [known, value] of model) {
              assert.deepStrictEqual(writes.image(page(known)), filled(value))
              assert.deepStrictEqual(yield* writes.get(page(known)), filled(value))
            }
            yield* writes.verify
          }
        }).pipe(Effect.scoped, Effect.provide(MemoryVfs.layerDisk(disk)), Effect.runPromise)
      })
      return fc.assert(property, { numRuns: 150 })
    }))

  it.effect("CO-11 spills and reads back through real files", () =>
    Effect.gen(function*() {
      const writes = yield* make(700, `${yield* temporaryDirectory}/app.db`)
      for (let n = 1; n <= 701; n++) yield* writes.put(page(n), filled(n % 251))
      assert.strictEqual(writes.memoryBytes, 0)
      for (let n = 702; n <= 3000; n++) yield* writes.put(page(n), filled(n % 251))
      for (let n = 1; n <= 3000; n += 3) yield* writes.put(page(n), filled(n % 241))
      assert.isAtMost(writes.memoryBytes, 700 * 512)
      yield* writes.verify
      for (let n = 1; n <= 3000; n++) {
        assert.strictEqual(writes.image(page(n))[511], n % (n % 3 === 1 ? 241 : 251))
      }
    }).pipe(Effect.provide(NodeVfs.layer)))
})
