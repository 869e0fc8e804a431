/**
 * What every layer of `SharedMemory` has to do, sentence by sentence of its documentation. What happens between
 * processes is not in it.
 */
import { assert, describe, it } from "@effect/vitest"
import {
  maxRegionBytes,
  regionGrainBytes,
  regionOf,
  SharedMemory,
  type SharedRegion
} from "@tidemark/platform/SharedMemory"
import { Cause, Effect, Exit, Fiber, type Layer, Scope } from "effect"
import { TestClock } from "effect/testing"
import fc from "fast-check"
import { runWorker } from "./support/sharedWorkers.ts"
import type { MakeDirectory } from "./VfsContract.ts"

const bytes = (...values: ReadonlyArray<number>) => Uint8Array.from(values)

/** The sentence of the defect that this call ends in. */
const defectOf = (call: () => unknown) =>
  Effect.exit(Effect.sync(call)).pipe(
    Effect.map((exit) =>
      Exit.isFailure(exit) && Cause.hasDies(exit.cause) ? String(Cause.squash(exit.cause)) : assert.fail("no defect")
    )
  )

const wordAt = (view: Uint8Array, offset: number) =>
  new DataView(view.buffer, view.byteOffset).getBigUint64(offset, true)

/**
 * The suite for a layer of `SharedMemory`, as tests of Vitest.
 *
 * @since 0.1.0
 */
export const sharedMemoryContract = <R>(
  name: string,
  layer: Layer.Layer<SharedMemory | R>,
  makeDirectory: MakeDirectory<R>
): void => {
  type Body = (memory: SharedMemory["Service"], path: string) => Effect.Effect<void, unknown, Scope.Scope>

  const bodyOf = (body: Body) =>
    Effect.gen(function*() {
      const memory = yield* SharedMemory
      yield* body(memory, `${yield* makeDirectory}/shm`)
    }).pipe(Effect.provide(layer, { local: true }))

  const test = (title: string, body: Body) => it.live(title, () => bodyOf(body))

  const create = (memory: SharedMemory["Service"], path: string, content = bytes()) =>
    memory.create(path, { bytes: regionGrainBytes, content })

  const opened = Effect.fnUntraced(function*(memory: SharedMemory["Service"], path: string) {
    const region = yield* memory.open(path)
    return region ?? assert.fail(`there is nothing at ${path}`)
  })

  describe(`SharedMemory: ${name}`, () => {
    test("where nothing is, nothing is found, and looking makes nothing", (memory, path) =>
      Effect.gen(function*() {
        for (let time = 0; time < 2; time++) {
          assert.isUndefined(yield* memory.peek(path, 8))
          assert.isUndefined(yield* memory.identify(path))
          assert.isUndefined(yield* memory.open(path))
        }
      }))

    test(
      "what is created begins with its content, zeros behind, a multiple of the grain long",
      (memory, path) =>
        Effect.gen(function*() {
          for (
            const [wanted, length] of [[1, 1], [regionGrainBytes, 1], [regionGrainBytes + 1, 2], [200_000, 4]] as const
          ) {
            const content = Uint8Array.from({ length: Math.min(wanted, 1001) }, (_, index) => index % 251 + 1)
            const region = yield* memory.create(path, { bytes: wanted, content })
            assert.deepInclude(region, { name: path, bytes: length * regionGrainBytes, medium: memory.medium })
            assert.strictEqual(region.buffer.byteLength, region.bytes)
            const expected = new Uint8Array(region.bytes)
            expected.set(content)
            assert.deepStrictEqual(region.copy(0, region.bytes), expected)
            assert.deepStrictEqual(yield* memory.peek(path, 1003), expected.subarray(0, 1003))
            assert.deepStrictEqual(yield* memory.peek(path, region.bytes + 8), expected)
          }
        })
    )

    test(
      "whoever opens the name has the same memory, and its identity is that of the name",
      (memory, path) =>
        Effect.gen(function*() {
          const first = yield* create(memory, path)
          const second = yield* opened(memory, path)
          first.store(8, 7n)
          assert.strictEqual(second.add(8, 1n), 7n)
          assert.strictEqual(first.load(8), 8n)
          assert.strictEqual(wordAt((yield* memory.peek(path, 16)) ?? bytes(), 8), 8n)
          assert.strictEqual(first.identity, second.identity)
          assert.strictEqual(yield* memory.identify(path), first.identity)
          const other = yield* create(memory, `${path}-2`)
          assert.notStrictEqual(other.identity, first.identity)
        })
    )

    test(
      "RC-18 a second creation gives the name to a new memory, and the old one lives on",
      (memory, path) =>
        Effect.gen(function*() {
          const old = yield* create(memory, path, bytes(1))
          const oldToo = yield* opened(memory, path)
          const fresh = yield* memory.create(path, { bytes: 2 * regionGrainBytes, content: bytes(2) })
          assert.notStrictEqual(fresh.identity, old.identity)
          assert.strictEqual(yield* memory.identify(path), fresh.identity)
          old.store(0, 77n)
          assert.strictEqual(oldToo.load(0), 77n)
          assert.strictEqual(fresh.load(0), 2n)
          assert.strictEqual((yield* opened(memory, path)).load(0), 2n)
        })
    )

    test("answers are what was there before, values are taken modulo 2^64", (memory, path) =>
      Effect.gen(function*() {
        const region = yield* create(memory, path)
        const last = region.bytes - 8
        const max = 2n ** 64n - 1n
        assert.strictEqual(region.add(last, -1n), 0n)
        assert.strictEqual(region.load(last), max)
        assert.strictEqual(region.compareExchange(last, 5n, 6n), max)
        assert.strictEqual(region.load(last), max)
        assert.strictEqual(region.compareExchange(last, max, 2n ** 64n + 9n), max)
        assert.strictEqual(region.add(last, max), 9n)
        assert.strictEqual(region.load(last), 8n)
        region.store(last, -2n)
        assert.strictEqual(region.load(last), max - 1n)
        assert.deepStrictEqual(region.copy(last, 3), bytes(0xfe, 0xff, 0xff))
      }))

    test(
      "any sequence of operations leaves what an array of words would hold",
      (memory, path) =>
        Effect.gen(function*() {
          const region = yield* create(memory, path)
          const word = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n })
          const step = fc.record({
            kind: fc.constantFrom("store", "add", "compareExchange"),
            index: fc.nat(9),
            value: word,
            expected: fc.option(word, { nil: undefined })
          })
          const model = new BigUint64Array(10)
          const view = new DataView(model.buffer)
          const property = fc.property(fc.array(step, { maxLength: 40 }), (steps) => {
            for (const { expected, index, kind, value } of steps) {
              const before = view.getBigUint64(index * 8, true)
              switch (kind) {
                case "store":
                  region.store(index * 8, value)
                  view.setBigUint64(index * 8, value, true)
                  break
                case "add":
                  assert.strictEqual(region.add(index * 8, value), before)
                  view.setBigUint64(index * 8, before + value, true)
                  break
                case "compareExchange":
                  assert.strictEqual(region.compareExchange(index * 8, expected ?? before, value), before)
                  if ((expected ?? before) === before) view.setBigUint64(index * 8, value, true)
              }
            }
            for (let offset = 0; offset < 80; offset += 8) {
              assert.strictEqual(region.load(offset), view.getBigUint64(offset, true))
            }
            assert.deepStrictEqual(region.copy(0, 77), new Uint8Array(model.buffer, 0, 77))
            assert.deepStrictEqual(region.copy(16, 5), new Uint8Array(model.buffer, 16, 5))
          })
          yield* Effect.sync(() => fc.assert(property, { numRuns: 200 }))
        })
    )

    test(
      "an offset that is no multiple of 8, or outside, is a defect of every operation",
      (memory, path) =>
        Effect.gen(function*() {
          const region = yield* create(memory, path, Uint8Array.from({ length: 16 }, () => 0xaa))
          const before = region.copy(0, region.bytes)
          for (const offset of [4, -8, 0.5, 8.5, NaN, Infinity, region.bytes, region.bytes + 8, 2 ** 53]) {
            for (const operation of operationsAt(offset)) {
              const sentence = yield* defectOf(() => operation(region))
              assert.include(sentence, `the offset ${offset}`)
            }
            assert.include(
              String(Cause.squash(yield* Effect.flip(Effect.sandbox(region.wait(offset, 0, 0))))),
              `the offset ${offset}`
            )
          }
          for (const [offset, length] of [[0, region.bytes + 1], [region.bytes - 8, 9], [0, -1], [0, 1.5]] as const) {
            assert.match(
              yield* defectOf(() => region.copy(offset, length)),
              /lies in the region|a length is an integer/
            )
          }
          assert.deepStrictEqual(region.copy(0, region.bytes), before)
        })
    )

    test(
      "a region that is no length, too long, or shorter than its content is a defect",
      (memory, path) =>
        Effect.gen(function*() {
          const wrong = [
            { bytes: 0, content: bytes() },
            { bytes: 1.5, content: bytes() },
            { bytes: maxRegionBytes + 1, content: bytes() },
            { bytes: 2, content: bytes(1, 2, 3) }
          ]
          for (const options of wrong) {
            const cause = yield* Effect.flip(Effect.sandbox(memory.create(path, options)))
            assert.isTrue(Cause.hasDies(cause), JSON.stringify(options))
          }
          assert.isUndefined(yield* memory.identify(path))
        })
    )

    test(
      "after its scope a region refuses every operation; its buffer, and other regions, go on",
      (memory, path) =>
        Effect.gen(function*() {
          const scope = yield* Scope.make()
          const closed = yield* Scope.provide(create(memory, path), scope)
          const other = yield* opened(memory, path)
          const words = new BigUint64Array(closed.buffer)
          yield* Scope.close(scope, Exit.void)
          for (const operation of operationsAt(8)) {
            assert.include(yield* defectOf(() => operation(closed)), "after its scope was closed")
          }
          assert.isTrue(Cause.hasDies(yield* Effect.flip(Effect.sandbox(closed.wait(8, 0, 0)))))
          other.store(8, 3n)
          assert.strictEqual(Atomics.add(words, 1, 1n), 3n)
          assert.strictEqual(other.load(8), 4n)
        })
    )

    test(
      "worker threads have the same memory through the buffer, and no addition is lost",
      (memory, path) =>
        Effect.gen(function*() {
          const region = yield* create(memory, path)
          const { buffer, identity, medium } = region
          const rounds = 20_000
          const threads = 3
          const worker = runWorker("sharedWords.ts", {
            task: "count",
            name: path,
            buffer,
            origin: { medium, identity },
            rounds,
            parties: threads
          })
          const said = yield* Effect.all(Array.from({ length: threads }, () => worker), { concurrency: "unbounded" })
          assert.deepStrictEqual(said, Array.from({ length: threads }, () => [path, medium, identity].join(" ")))
          assert.strictEqual(region.load(0), BigInt(threads * rounds))
          assert.strictEqual(region.load(8), BigInt(threads * rounds))
        })
    )

    test(
      "a region over a posted buffer is open, and without an origin it has an identity of its own",
      (memory, path) =>
        Effect.gen(function*() {
          const scope = yield* Scope.make()
          const region = yield* Scope.provide(create(memory, path), scope)
          const again = regionOf("here", region.buffer)
          yield* Scope.close(scope, Exit.void)
          again.store(0, 1n)
          assert.deepInclude(again, { name: "here", bytes: region.bytes, medium: "memory" })
          assert.strictEqual(regionOf("there", region.buffer).identity, again.identity)
          assert.notStrictEqual(regionOf("here", new SharedArrayBuffer(8)).identity, again.identity)
        })
    )

    test("a waiter is woken by another thread", (memory, path) =>
      Effect.gen(function*() {
        const region = yield* create(memory, path)
        const { buffer, identity, medium } = region
        const waiting = yield* Effect.forkChild(region.wait(32, 0, "10 seconds"), { startImmediately: true })
        const origin = { medium, identity }
        yield* runWorker("sharedWords.ts", { task: "wake", name: path, buffer, origin, rounds: 1, parties: 1 })
        assert.strictEqual(yield* Fiber.join(waiting), "woken")
      }))

    test(
      "a waiter compares the low half only, and does not wait when it differs",
      (memory, path) =>
        Effect.gen(function*() {
          const region = yield* create(memory, path)
          region.store(8, 5n << 32n)
          assert.strictEqual(yield* region.wait(8, 1, "10 seconds"), "changed")
          assert.strictEqual(yield* region.wait(8, 0, 0), "timed-out")
          region.store(8, 0xffff_ffffn)
          assert.strictEqual(yield* region.wait(8, -1, 0), "timed-out")
          assert.strictEqual(yield* region.wait(8, 0xffff_ffff, 0), "timed-out")
        })
    )

    test(
      "notify answers how many it woke, at most as many as asked for, and only at that word",
      (memory, path) =>
        Effect.gen(function*() {
          const region = yield* create(memory, path)
          const fork = (offset: number) =>
            Effect.forkChild(region.wait(offset, 0, "10 seconds"), { startImmediately: true })
          const waiting = [yield* fork(8), yield* fork(8), yield* fork(8)]
          const elsewhere = yield* fork(16)
          assert.strictEqual(region.notify(24), 0)
          assert.strictEqual(region.notify(8, 2), 2)
          assert.strictEqual(region.notify(8), 1)
          assert.deepStrictEqual(yield* Effect.all(waiting.map((fiber) => Fiber.join(fiber))), [
            "woken",
            "woken",
            "woken"
          ])
          assert.strictEqual(region.notify(8), 0)
          assert.strictEqual(region.notify(16), 1)
          yield* Fiber.join(elsewhere)
        })
    )

    test("a waiter who has given up passes the notification on", (memory, path) =>
      Effect.gen(function*() {
        const region = yield* create(memory, path)
        const fork = Effect.forkChild(region.wait(8, 0, "5 seconds"), { startImmediately: true })
        const first = yield* fork
        const second = yield* fork
        yield* Fiber.interrupt(first)
        assert.strictEqual(region.notify(8, 1), 1)
        assert.strictEqual(yield* Fiber.join(second), "woken")
      }))

    test(
      "what another process changes is noticed by and by, without a notification",
      (memory, path) =>
        Effect.gen(function*() {
          const region = yield* create(memory, path)
          const waiting = yield* Effect.forkChild(region.wait(8, 0, "10 seconds"), { startImmediately: true })
          region.store(8, 1n)
          assert.strictEqual(yield* Fiber.join(waiting), "changed")
        })
    )

    it.effect("the time of a wait comes from the Clock", () =>
      bodyOf((memory, path) =>
        Effect.gen(function*() {
          const region = yield* create(memory, path)
          const waiting = yield* Effect.forkChild(region.wait(8, 0, "3 hours"), { startImmediately: true })
          yield* TestClock.adjust("2 hours")
          assert.isUndefined(waiting.pollUnsafe())
          yield* TestClock.adjust("1 hour")
          assert.strictEqual(yield* Fiber.join(waiting), "timed-out")
        })
      ))
  })
}

const operationsAt = (offset: number): ReadonlyArray<(region: SharedRegion) => unknown> => [
  (region) => region.load(offset),
  (region) => region.store(offset, 1n),
  (region) => region.compareExchange(offset, 0n, 1n),
  (region) => region.add(offset, 1n),
  (region) => region.copy(offset, 8),
  (region) => region.notify(offset)
]
