import { assert, describe, it } from "@effect/vitest"
import * as RowIdAllocator from "@tidemark/coordinator/RowIdAllocator"
import * as RowIdCache from "@tidemark/coordinator/RowIdCache"
import { maxRowId, toTxnId, TxnEpoch } from "@tidemark/core/Scalars"
import { Cause, ConfigProvider, Context, Deferred, Effect, Exit, Fiber, Layer, References, Scope } from "effect"
import { epoch, forkNow, isWaiting, normal, rowId, tableId } from "./support/rowIds.ts"
import { makeSlowRowIds, type SlowRowIds } from "./support/slowRowIds.ts"

const accounts = tableId(7)
const now = epoch(0)

/** Runs a test over a slow allocator, with a table whose largest id is 100. */
const test = (
  title: string,
  body: (slow: SlowRowIds) => Effect.Effect<void, unknown, Scope.Scope | RowIdAllocator.RowIdAllocator>
) =>
  it.effect(title, () =>
    Effect.gen(function*() {
      const slow = makeSlowRowIds(yield* RowIdAllocator.RowIdAllocator, yield* RowIdAllocator.RowIdOwner)
      yield* slow.rowIds.initialize({ schemaEpoch: now, table: accounts, ...normal(100n) })
      yield* body(slow).pipe(Effect.provideService(RowIdAllocator.RowIdAllocator, slow.rowIds))
    }).pipe(
      Effect.provide(RowIdAllocator.layer, { local: true }),
      Effect.provideService(References.MinimumLogLevel, "None")
    ))

/** The ids of `accounts` for one more connection. */
const connect = (options?: RowIdCache.RowIdCacheOptions) =>
  Effect.map(RowIdCache.make(options), (cache) => cache.table(accounts))

const deliver = (slow: SlowRowIds) => Effect.suspend(() => slow.sent[0]?.deliver ?? Effect.die("nothing is on its way"))

describe("RowIdCache", () => {
  test("RID-09 one reservation is on its way however many fibers wait, and they are served in order", (slow) =>
    Effect.gen(function*() {
      const rowIds = yield* connect()
      const waiting = yield* Effect.forEach(Array.from({ length: 100 }), () => forkNow(rowIds.next(now)))
      assert.strictEqual(slow.total(), 1)
      assert.isUndefined(rowIds.nextUnsafe(now))
      yield* deliver(slow)
      assert.deepStrictEqual(waiting.map(isWaiting), Array.from({ length: 100 }, (_, index) => index >= 64))
      // Nothing was left for who comes later, and those who wait still have their place.
      assert.isUndefined(rowIds.nextUnsafe(now))
      assert.strictEqual(slow.total(), 2)
      yield* deliver(slow)
      const ids = yield* Effect.forEach(waiting, Fiber.join)
      assert.deepStrictEqual(ids, Array.from({ length: 100 }, (_, index) => rowId(101n + BigInt(index))))
      assert.strictEqual(rowIds.remaining(now), 28)
      assert.strictEqual(rowIds.nextUnsafe(now), rowId(201n))
      assert.strictEqual(slow.sent.length, 0)
    }))

  test("RID-09 who is interrupted while he waits neither cancels the reservation nor loses the range", (slow) =>
    Effect.gen(function*() {
      const rowIds = yield* connect()
      const first = yield* forkNow(rowIds.next(now))
      const second = yield* forkNow(rowIds.next(now))
      yield* Fiber.interrupt(first)
      assert.isFalse(slow.sent[0]?.isAbandoned)
      yield* deliver(slow)
      // The id of the first is the second's: nothing was lost.
      assert.strictEqual(yield* Fiber.join(second), rowId(101n))
      assert.strictEqual(rowIds.remaining(now), 63)
    }))

  test("RID-09 a range that arrives when all who waited are gone is kept", (slow) =>
    Effect.gen(function*() {
      const rowIds = yield* connect()
      const waiting = yield* Effect.forEach([1, 2, 3], () => forkNow(rowIds.next(now)))
      yield* Fiber.interruptAll(waiting)
      assert.isFalse(slow.sent[0]?.isAbandoned)
      yield* deliver(slow)
      assert.strictEqual(rowIds.remaining(now), 64)
      assert.strictEqual(yield* rowIds.next(now), rowId(101n))
      assert.strictEqual(slow.total(), 1)
    }))

  test("RID-09 who goes on and asks for more does not overtake those who waited with him", (slow) =>
    Effect.gen(function*() {
      const rowIds = yield* connect({ rangeSize: 3 })
      const seen: Array<string> = []
      const asks = (name: string, times: number) =>
        forkNow(Effect.forEach(
          Array.from({ length: times }),
          () => Effect.map(rowIds.next(now), (id) => seen.push(`${name} ${id}`)),
          { discard: true }
        ))
      yield* asks("a", 3)
      yield* asks("b", 1)
      yield* asks("c", 1)
      yield* deliver(slow)
      assert.deepStrictEqual(seen, ["a 101", "b 102", "c 103"])
      yield* deliver(slow)
      assert.deepStrictEqual(seen.slice(3), ["a 104", "a 105"])
    }))

  test("RID-09 a request is in the name of the transaction that finds the range empty", (slow) =>
    Effect.gen(function*() {
      const rowIds = yield* connect({ rangeSize: 5 })
      const token = { id: toTxnId(9n), epoch: TxnEpoch.make(1) }
      yield* forkNow(rowIds.next(now, token))
      yield* forkNow(rowIds.next(now))
      assert.deepStrictEqual(slow.sent.map(({ request }) => request), [
        { schemaEpoch: now, table: accounts, token, count: 5 }
      ])
    }))

  test("RID-09 an effect takes an id each time it runs", (slow) =>
    Effect.gen(function*() {
      const rowIds = yield* connect()
      const next = rowIds.next(now)
      const first = yield* forkNow(next)
      yield* deliver(slow)
      assert.deepStrictEqual([yield* Fiber.join(first), yield* next, yield* next], [101n, 102n, 103n].map(rowId))
    }))

  test("RID-09 RID-11 under another schema epoch the range is forgotten, and nothing of it comes back", (slow) =>
    Effect.gen(function*() {
      const rowIds = yield* connect()
      yield* forkNow(rowIds.next(now))
      yield* deliver(slow)
      assert.strictEqual(rowIds.remaining(now), 63)
      assert.strictEqual(rowIds.remaining(epoch(1)), 0)
      // The owner is not asked, so this holds also when his word has not come here yet.
      assert.isUndefined(rowIds.nextUnsafe(epoch(1)))
      assert.isUndefined(rowIds.nextUnsafe(now))
    }))

  test("RID-09 RID-11 of a schema whose number comes back the range does not", (slow) =>
    Effect.gen(function*() {
      const rowIds = yield* connect()
      yield* forkNow(rowIds.next(now))
      yield* deliver(slow)
      yield* slow.owner.setSchemaEpoch(epoch(1))
      yield* slow.owner.setSchemaEpoch(now)
      assert.strictEqual(rowIds.remaining(now), 0)
      assert.isUndefined(rowIds.nextUnsafe(now))
    }))

  test("RID-09 RID-13 a range that was reserved before the table was initialised again is not used", (slow) =>
    Effect.gen(function*() {
      const rowIds = yield* connect()
      const waiting = yield* forkNow(rowIds.next(now))
      yield* slow.sent[0]?.process ?? Effect.die("nothing is on its way")
      yield* slow.rowIds.initialize({ schemaEpoch: now, table: accounts, ...normal(500n) })
      yield* deliver(slow)
      assert.isTrue(isWaiting(waiting))
      yield* deliver(slow)
      assert.strictEqual(yield* Fiber.join(waiting), rowId(501n))
    }))

  test("RID-11 each schema epoch has its own answer, also when both wait for ids", (slow) =>
    Effect.gen(function*() {
      const rowIds = yield* connect({ rangeSize: 1 })
      const asking = yield* Effect.forEach([now, epoch(9), now, epoch(9), now], (of) => forkNow(rowIds.next(of)))
      assert.deepStrictEqual(slow.sent.map(({ request }) => request.schemaEpoch), [now])
      yield* deliver(slow)
      assert.deepStrictEqual(slow.sent.map(({ request }) => request.schemaEpoch), [epoch(9)])
      yield* deliver(slow)
      assert.deepStrictEqual(asking.map(isWaiting), [false, false, true, false, true])
      yield* deliver(slow)
      yield* deliver(slow)
      const answers = yield* Effect.forEach(asking, (fiber) =>
        Effect.match(Fiber.join(fiber), { onSuccess: String, onFailure: (error) => error._tag }))
      assert.deepStrictEqual(answers, ["101", "SchemaMismatch", "102", "SchemaMismatch", "103"])
    }))

  test("RID-09 a range under one schema epoch is no obstacle to who waits under the next", (slow) =>
    Effect.gen(function*() {
      const rowIds = yield* connect()
      const before = yield* forkNow(rowIds.next(now))
      yield* slow.sent[0]?.process ?? Effect.die("nothing is on its way")
      const after = yield* forkNow(rowIds.next(epoch(1)))
      yield* deliver(slow)
      assert.strictEqual(yield* Fiber.join(before), rowId(101n))
      yield* slow.owner.setSchemaEpoch(epoch(1))
      yield* slow.rowIds.initialize({ schemaEpoch: epoch(1), table: accounts, ...normal(20n) })
      // It was asked for before the schema was changed, so nothing is taken from the range 21 ... 84.
      yield* deliver(slow)
      assert.isTrue(isWaiting(after))
      yield* deliver(slow)
      assert.strictEqual(yield* Fiber.join(after), rowId(85n))
      assert.strictEqual(rowIds.remaining(epoch(1)), 63)
      assert.isUndefined(rowIds.nextUnsafe(now))
    }))

  test("RID-11 a refusal answers those who had asked before it, and who came later asks again", (slow) =>
    Effect.gen(function*() {
      const missing = tableId(8)
      const rowIds = (yield* RowIdCache.make()).table(missing)
      const first = yield* forkNow(Effect.flip(rowIds.next(now)))
      yield* slow.sent[0]?.process ?? Effect.die("nothing is on its way")
      yield* slow.rowIds.initialize({ schemaEpoch: now, table: missing, ...normal(0n) })
      const second = yield* forkNow(rowIds.next(now))
      yield* deliver(slow)
      assert.strictEqual((yield* Fiber.join(first))._tag, "TableNotInitialized")
      assert.isTrue(isWaiting(second))
      yield* deliver(slow)
      assert.strictEqual(yield* Fiber.join(second), rowId(1n))
    }))

  test("RID-06 an id of one's own choice is skipped, in the range and in those to come", (slow) =>
    Effect.gen(function*() {
      const rowIds = yield* connect()
      yield* forkNow(rowIds.next(now))
      yield* deliver(slow)
      yield* rowIds.bump(now, rowId(101n))
      assert.strictEqual(rowIds.nextUnsafe(now), rowId(102n))
      yield* rowIds.bump(now, rowId(110n))
      assert.strictEqual(rowIds.nextUnsafe(now), rowId(111n))
      assert.strictEqual(rowIds.remaining(now), 164 - 111)
      yield* rowIds.bump(now, rowId(-5n))
      assert.strictEqual(rowIds.nextUnsafe(now), rowId(112n))
      yield* rowIds.bump(now, rowId(5000n))
      assert.strictEqual(rowIds.remaining(now), 0)
      const next = yield* forkNow(rowIds.next(now))
      yield* deliver(slow)
      assert.strictEqual(yield* Fiber.join(next), rowId(5001n))
    }))

  test("RID-06 an id is also skipped in a range that was reserved before it was chosen, and arrives after", (slow) =>
    Effect.gen(function*() {
      const rowIds = yield* connect()
      const first = yield* forkNow(rowIds.next(now))
      yield* slow.sent[0]?.process ?? Effect.die("nothing is on its way")
      yield* rowIds.bump(now, rowId(120n))
      yield* rowIds.bump(now, rowId(110n))
      yield* deliver(slow)
      assert.strictEqual(yield* Fiber.join(first), rowId(121n))
      assert.strictEqual(rowIds.remaining(now), 164 - 121)

      rowIds.forget()
      const second = yield* forkNow(rowIds.next(now))
      yield* slow.sent[0]?.process ?? Effect.die("nothing is on its way")
      yield* rowIds.bump(now, rowId(9000n))
      yield* deliver(slow)
      assert.isTrue(isWaiting(second))
      yield* deliver(slow)
      assert.strictEqual(yield* Fiber.join(second), rowId(9001n))
    }))

  test("RID-06 nor is it handed out of a range that arrives while the owner is being told", (slow) =>
    Effect.gen(function*() {
      const told = yield* Deferred.make<void>()
      const { bump } = slow.rowIds
      const rowIds = yield* connect().pipe(Effect.provideService(RowIdAllocator.RowIdAllocator, {
        ...slow.rowIds,
        bump: (request) => Effect.andThen(Deferred.await(told), bump(request))
      }))
      const bumping = yield* forkNow(rowIds.bump(now, rowId(120n)))
      const next = yield* forkNow(rowIds.next(now))
      yield* deliver(slow)
      assert.strictEqual(yield* Fiber.join(next), rowId(101n))
      yield* Deferred.succeed(told, undefined)
      yield* Fiber.join(bumping)
      assert.strictEqual(rowIds.nextUnsafe(now), rowId(121n))
    }))

  test("RID-06 the range skips a chosen id also when the owner has no ids any more", (slow) =>
    Effect.gen(function*() {
      const rowIds = yield* connect()
      yield* forkNow(rowIds.next(now))
      yield* deliver(slow)
      yield* slow.rowIds.bump({ schemaEpoch: now, table: accounts, rowId: maxRowId })
      assert.strictEqual((yield* Effect.flip(rowIds.bump(now, rowId(120n))))._tag, "Exhausted")
      assert.strictEqual(rowIds.nextUnsafe(now), rowId(121n))
    }))

  test("RID-10 the last ids are asked for one by one when no range fits", (slow) =>
    Effect.gen(function*() {
      yield* slow.rowIds.initialize({ schemaEpoch: now, table: accounts, ...normal(maxRowId - 66n) })
      const rowIds = yield* connect()
      const asking = yield* Effect.forEach(Array.from({ length: 70 }), () => forkNow(rowIds.next(now)))
      const counts: Array<number> = []
      while (slow.sent.length > 0) {
        counts.push(slow.sent[0]?.request.count ?? 0)
        yield* deliver(slow)
      }
      assert.deepStrictEqual(counts, [64, 64, 1, 64, 1, 64, 1])
      const answers = yield* Effect.forEach(asking, (fiber) =>
        Effect.match(Fiber.join(fiber), {
          onSuccess: (id): bigint | string => id,
          onFailure: (error) => error._tag
        }))
      assert.deepStrictEqual(
        answers.slice(0, 66),
        Array.from({ length: 66 }, (_, index) => maxRowId - 65n + BigInt(index))
      )
      assert.deepStrictEqual(answers.slice(66), ["Exhausted", "Exhausted", "Exhausted", "Exhausted"])
    }))

  test("RID-10 a cache of single ids does not ask twice for one that is not there", (slow) =>
    Effect.gen(function*() {
      yield* slow.rowIds.initialize({ schemaEpoch: now, table: accounts, ...normal(maxRowId) })
      const rowIds = yield* connect({ rangeSize: 1 })
      const asking = yield* forkNow(Effect.flip(rowIds.next(now)))
      yield* deliver(slow)
      assert.strictEqual((yield* Fiber.join(asking))._tag, "Exhausted")
    }))

  test("RID-09 when the scope closes, who waits is interrupted, and nobody waits for ever afterwards", (slow) =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      const rowIds = yield* Scope.provide(connect(), scope)
      const waiting = yield* forkNow(rowIds.next(now))
      yield* Scope.close(scope, Exit.void)
      assert.isTrue(slow.sent[0]?.isAbandoned)
      const exits = [yield* Fiber.await(waiting), yield* Fiber.await(yield* forkNow(rowIds.next(now)))]
      for (const exit of exits) assert.isTrue(Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause))
    }))

  test("a defect of the allocator is everybody's who waits, and not the last word", (slow) =>
    Effect.gen(function*() {
      let isBroken = true
      const { reserve } = slow.rowIds
      const broken: typeof slow.rowIds = {
        ...slow.rowIds,
        reserve: (request) => isBroken ? Effect.andThen(reserve(request), Effect.die("broken")) : reserve(request)
      }
      const rowIds = yield* connect().pipe(Effect.provideService(RowIdAllocator.RowIdAllocator, broken))
      const waiting = yield* Effect.forEach([1, 2], () => forkNow(rowIds.next(now)))
      yield* deliver(slow)
      for (const fiber of waiting) {
        const exit = yield* Fiber.await(fiber)
        assert.isTrue(Exit.isFailure(exit) && Cause.hasDies(exit.cause))
      }
      isBroken = false
      const again = yield* forkNow(rowIds.next(now))
      yield* deliver(slow)
      assert.strictEqual(yield* Fiber.join(again), rowId(165n))
    }))

  test("lets go of the tables that were not asked for longest", () =>
    Effect.gen(function*() {
      const cache = yield* RowIdCache.make({ maxTables: 2 })
      const [first, second] = [cache.table(tableId(1)), cache.table(tableId(2))]
      assert.strictEqual(cache.table(tableId(1)), first)
      cache.table(tableId(3))
      assert.strictEqual(cache.table(tableId(1)), first)
      assert.notStrictEqual(cache.table(tableId(2)), second)
    }))

  it.effect("RID-08 takes the size of its ranges from the configuration, 64 without it", () =>
    Effect.gen(function*() {
      const sizeWith = (variables: Record<string, string>) =>
        Effect.map(
          Layer.build(RowIdCache.layerConfig.pipe(
            Layer.provide(RowIdAllocator.layer),
            Layer.provide(ConfigProvider.layer(ConfigProvider.fromEnvRecord(variables)))
          )),
          (context) => Context.get(context, RowIdCache.RowIdCache).rangeSize
        )
      assert.strictEqual(yield* sizeWith({}), 64)
      assert.strictEqual(yield* sizeWith({ TIDEMARK_ROW_ID_RANGE_SIZE: "4294967295" }), 4_294_967_295)
      for (const refused of ["0", "-1", "1.5", "4294967296", "many"]) {
        const error = yield* Effect.flip(sizeWith({ TIDEMARK_ROW_ID_RANGE_SIZE: refused }))
        assert.include(error.message, "TIDEMARK_ROW_ID_RANGE_SIZE", refused)
      }
    }))

  it.effect("RID-08 a size that is none is a defect", () =>
    Effect.gen(function*() {
      for (const options of [{ rangeSize: 0 }, { rangeSize: 2 ** 32 }, { rangeSize: 1.5 }, { maxTables: 0 }]) {
        const exit = yield* Effect.exit(RowIdCache.make(options))
        assert.isTrue(Exit.isFailure(exit) && Cause.hasDies(exit.cause))
      }
    }).pipe(Effect.provide(RowIdAllocator.layer)))
})
