/** What a key-value store in a log promises beyond the contract of the interface. */
import { assert, describe, it } from "@effect/vitest"
import { MemoryDisk } from "@tidemark/platform/MemoryDisk"
import * as MemoryVfs from "@tidemark/platform/MemoryVfs"
import { Config, ConfigProvider, Effect, Exit, Fiber, Layer } from "effect"
import { KeyValueStore, type PersistedQueue } from "effect/persistence"
import { AppendLog } from "../src/AppendLog.ts"
import { LogClosed, LogLocked, RecordTooLarge, WalPoisoned } from "../src/LogErrors.ts"
import * as LogKeyValueStore from "../src/LogKeyValueStore.ts"
import * as LogPersistedQueue from "../src/LogPersistedQueue.ts"
import { LogInUse, WrongStateKind } from "../src/LogStateErrors.ts"
import { openStore, othersGoOn, segments, tooLong } from "./support/adapters.ts"

type Store = KeyValueStore.KeyValueStore

const bytes = (...values: ReadonlyArray<number>) => new Uint8Array(values)
const numbers = (count: number) => Array.from({ length: count }, (_, i) => i)
const start = <A, E>(effect: Effect.Effect<A, E>) => Effect.forkChild(effect, { startImmediately: true })

/** Everything that can be read. */
const contents = Effect.fnUntraced(function*(store: Store) {
  const found: Record<string, string | undefined> = {}
  for (const key of (yield* store.keys).toSorted()) found[key] = yield* store.get(key)
  assert.strictEqual(yield* store.size, Object.keys(found).length)
  return found
})

const contentsOn = (disk: MemoryDisk) => Effect.scoped(Effect.flatMap(openStore(disk), ({ store }) => contents(store)))

describe("LogKeyValueStore", () => {
  describe("durability", () => {
    const changes: ReadonlyArray<
      readonly [name: string, change: (store: Store) => Effect.Effect<unknown, unknown>, after: object]
    > = [
      ["set", (store) => store.set("a", "new"), { a: "new", ab: "2", b: "3" }],
      ["remove", (store) => store.remove("a"), { ab: "2", b: "3" }],
      ["clear", (store) => store.clear, {}],
      ["clearPrefix", (store) => store.clearPrefix("a"), { b: "3" }],
      ["modify", (store) => store.modify("a", (value) => `${value}!`), { a: "1!", ab: "2", b: "3" }],
      ["modifyUint8Array", (store) => store.modifyUint8Array("a", () => bytes(0)), { a: "AA==", ab: "2", b: "3" }]
    ]
    const before = { a: "1", ab: "2", b: "3" }

    for (const [name, change, after] of changes) {
      it.effect(`shows a ${name} to nobody before it is durable`, () =>
        Effect.gen(function*() {
          const disk = MemoryDisk.make()
          const { store } = yield* openStore(disk)
          for (const [key, value] of Object.entries(before)) yield* store.set(key, value)
          const sync = disk.hold({ operation: "syncData", path: segments })
          const changing = yield* start(change(store))
          yield* sync.reached
          yield* othersGoOn
          assert.deepStrictEqual(yield* contents(store), before)
          assert.isTrue(yield* store.has("a"))
          assert.isFalse(yield* store.isEmpty)
          assert.isUndefined(changing.pollUnsafe())
          assert.deepStrictEqual(yield* contentsOn(disk.afterCrash("lost")), before)
          yield* sync.release
          yield* Fiber.join(changing)
          assert.deepStrictEqual(yield* contents(store), after)
          assert.deepStrictEqual(yield* contentsOn(disk.afterCrash("lost")), after)
        }))
    }

    it.effect("counts on what is on its way without showing it", () =>
      Effect.gen(function*() {
        const disk = MemoryDisk.make()
        const { store } = yield* openStore(disk)
        yield* store.set("n", "0")
        const increment = store.modify("n", (value) => `${Number(value) + 1}`)
        const sync = disk.hold({ operation: "syncData", path: segments })
        const changing = [
          yield* start(increment),
          yield* start(increment),
          yield* start(store.set("n", "10")),
          yield* start(increment),
          yield* start(store.remove("n")),
          yield* start(increment),
          yield* start(store.set("n", "20")),
          yield* start(store.clearPrefix("n")),
          yield* start(store.modify("n", () => "not there")),
          yield* start(store.set("n", "30")),
          yield* start(increment)
        ]
        yield* sync.reached
        assert.deepStrictEqual(yield* contents(store), { n: "0" })
        yield* sync.release
        const answers = yield* Effect.forEach(
          changing,
          (fiber) => Fiber.join<string | undefined | void, unknown>(fiber)
        )
        assert.deepStrictEqual(answers, [
          "1",
          "2",
          undefined,
          "11",
          undefined,
          undefined,
          undefined,
          undefined,
          undefined,
          undefined,
          "31"
        ])
        assert.deepStrictEqual(yield* contents(store), { n: "31" })
        assert.deepStrictEqual(yield* contentsOn(disk.afterCrash("lost")), { n: "31" })
      }))

    it.effect("counts on what is on its way, also between two answers of one sync", () =>
      Effect.gen(function*() {
        const disk = MemoryDisk.make()
        const { store } = yield* openStore(disk)
        const increment = store.modify("n", (value) => `${Number(value) + 1}`)
        const sync = disk.hold({ operation: "syncData", path: segments })
        const changing = [
          yield* start(Effect.andThen(store.set("n", "1"), increment)),
          yield* start(Effect.as(store.set("n", "10"), undefined))
        ]
        yield* sync.reached
        yield* sync.release
        const answers = yield* Effect.forEach(changing, (fiber) => Fiber.join<string | undefined, unknown>(fiber))
        assert.deepStrictEqual(answers, ["11", undefined])
        assert.deepStrictEqual(yield* contents(store), { n: "11" })
      }))

    it.effect("removes what is on its way", () =>
      Effect.gen(function*() {
        const removals: ReadonlyArray<(store: Store) => Effect.Effect<void, unknown>> = [
          (store) => store.remove("a"),
          (store) => store.clear,
          (store) => store.clearPrefix("a")
        ]
        for (const removal of removals) {
          const disk = MemoryDisk.make()
          const { store } = yield* openStore(disk)
          const sync = disk.hold({ operation: "syncData", path: segments })
          const changing = [
            yield* start(store.set("a", "1")),
            yield* start(removal(store)),
            yield* start(store.modify("a", () => "2"))
          ]
          yield* sync.reached
          yield* sync.release
          yield* Effect.forEach(changing, (fiber) => Fiber.join<unknown, unknown>(fiber))
          assert.deepStrictEqual(yield* contents(store), {})
          assert.isUndefined(yield* store.modify("a", () => "3"))
        }
      }))

    it.effect("does not say that a key is gone before its removal is durable", () =>
      Effect.gen(function*() {
        const disk = MemoryDisk.make()
        const { store } = yield* openStore(disk)
        yield* store.set("a", "1")
        const sync = disk.hold({ operation: "syncData", path: segments })
        const removing = yield* start(store.clear)
        yield* sync.reached
        const asking = [
          yield* start(store.modify("a", () => "2")),
          yield* start(store.remove("a")),
          yield* start(store.clear),
          yield* start(store.clearPrefix("a"))
        ]
        yield* othersGoOn
        for (const fiber of asking) assert.isUndefined(fiber.pollUnsafe())
        yield* sync.release
        yield* Effect.forEach([removing, ...asking], (fiber) => Fiber.join<unknown, unknown>(fiber))
        assert.deepStrictEqual(yield* contents(store), {})
      }))

    it.effect("writes nothing when there is nothing to change", () =>
      Effect.gen(function*() {
        const disk = MemoryDisk.make()
        const { store } = yield* openStore(disk)
        const trace = disk.record()
        yield* store.clear
        yield* store.clearPrefix("a")
        yield* store.remove("a")
        yield* store.modify("a", () => "b")
        trace.stop()
        assert.deepStrictEqual(trace.steps, [])
      }))

    it.effect("keeps every value as it was, of both types", () =>
      Effect.gen(function*() {
        const disk = MemoryDisk.make()
        const texts = ["", "é€😀", "\ud83d", "\ufeffx", "a\u0000", "x".repeat(100_000)]
        const arrays = [bytes(), bytes(0, 255), new Uint8Array(100_000).fill(7)]
        yield* Effect.scoped(Effect.gen(function*() {
          const { store } = yield* openStore(disk)
          for (const [i, value] of [...texts, ...arrays].entries()) yield* store.set(`${i}\ud83d`, value)
        }))
        disk.crash("lost")
        const { store } = yield* openStore(disk)
        for (const [i, text] of texts.entries()) assert.strictEqual(yield* store.get(`${i}\ud83d`), text)
        for (const [i, array] of arrays.entries()) {
          assert.deepStrictEqual(yield* store.getUint8Array(`${i + texts.length}\ud83d`), array)
        }
      }))

    it.effect("keeps its bytes to itself", () =>
      Effect.gen(function*() {
        const disk = MemoryDisk.make()
        const { store } = yield* openStore(disk)
        const given = bytes(1, 2)
        const setting = yield* start(store.set("a", given))
        given[0] = 9
        yield* Fiber.join(setting)
        given[1] = 9
        const read = yield* store.getUint8Array("a")
        read?.fill(9)
        const modified = yield* store.modifyUint8Array("a", (value) => {
          const next = bytes(...value, 3)
          value.fill(9)
          return next
        })
        modified?.fill(9)
        assert.deepStrictEqual(yield* store.getUint8Array("a"), bytes(1, 2, 3))
        yield* store.modifyUint8Array("a", () => {
          throw new Error("no")
        }).pipe(Effect.exit)
        assert.deepStrictEqual(yield* store.getUint8Array("a"), bytes(1, 2, 3))
      }))
  })

  describe("crashes", () => {
    it.effect("leave what was acknowledged, and what followed it in order, up to some point", () =>
      Effect.gen(function*() {
        let states = 0
        for (const seed of [1, 2]) {
          const disk = MemoryDisk.make({ async: { seed, maxTurns: 2 } })
          const trace = disk.record<number>()
          /** What there is after each change, in the order in which they were asked for. */
          const models: Array<Record<string, string>> = [{}]
          /** Its position; 0 when nothing changes, because its answer says nothing about those before it. */
          const change = (step: (model: Record<string, string>) => Record<string, string>) => {
            const before = models.at(-1) ?? {}
            const after = step(before)
            const position = models.push(after) - 1
            return JSON.stringify(sorted(before)) === JSON.stringify(sorted(after)) ? 0 : position
          }
          yield* Effect.scoped(Effect.gen(function*() {
            const { store } = yield* openStore(disk, { ...tooLong, maxBatchBytes: 100 })
            const steps: ReadonlyArray<(i: number) => readonly [Effect.Effect<unknown, unknown>, number]> = [
              (i) => [store.set(`a${i % 3}`, `${i}`), change((model) => ({ ...model, [`a${i % 3}`]: `${i}` }))],
              (i) => [store.set("b", `${i}`.repeat(i)), change((model) => ({ ...model, b: `${i}`.repeat(i) }))],
              () => [
                store.modify("b", (value) => `${value}!`),
                change((model) => model["b"] === undefined ? model : { ...model, b: `${model["b"]}!` })
              ],
              (i) => [store.remove(`a${i % 2}`), change((model) => without(model, (key) => key === `a${i % 2}`))],
              (i) =>
                i % 4 === 3
                  ? [store.clear, change(() => ({}))]
                  : [store.clearPrefix("a"), change((model) => without(model, (key) => key.startsWith("a")))]
            ]
            for (let i = 0; i < 12; i++) {
              const changing = []
              for (const step of steps.slice(i % 3)) {
                const [effect, position] = step(i)
                changing.push(yield* start(Effect.tap(effect, () => Effect.sync(() => trace.mark(position)))))
              }
              yield* Effect.forEach(changing, (fiber) => Fiber.join(fiber), { discard: true })
            }
          }))
          trace.stop()
          for (const state of trace.crashStates({ seed, perStep: 1, steps: (step) => step % 4 === 0 })) {
            states++
            const acknowledged = Math.max(0, ...state.marks)
            const found = JSON.stringify(sorted(yield* contentsOn(state.disk)))
            const right = models.slice(acknowledged).some((model) => JSON.stringify(sorted(model)) === found)
            assert.isTrue(right, `${state.label}: ${found}, at least ${acknowledged} of ${models.length - 1} changes`)
            state.disk.crash("lost")
            assert.strictEqual(JSON.stringify(sorted(yield* contentsOn(state.disk))), found, state.label)
          }
        }
        assert.isAbove(states, 400)
      }))
  })

  describe("limits and endings", () => {
    const limit: { readonly maxRecordBytes: number } = { maxRecordBytes: 1000 }

    it.effect("GC-10 refuses a value that fits into no record, and loses nothing by it", () =>
      Effect.gen(function*() {
        const disk = MemoryDisk.make()
        const { close, store } = yield* openStore(disk, { ...tooLong, ...limit })
        yield* store.set("a", "small")
        const sync = disk.hold({ operation: "syncData", path: segments })
        const setting = yield* start(store.set("b", "on its way"))
        yield* sync.reached
        const refused = yield* Effect.flip(store.set("a", "x".repeat(1000)))
        assert.strictEqual(refused._tag, "KeyValueStoreError")
        assert.deepStrictEqual([refused.method, refused.key], ["set", "a"])
        assert.isTrue(refused.cause instanceof RecordTooLarge && refused.cause.maxRecordBytes === 1000)
        const modifying = yield* start(store.modify("a", (value) => `${value}!`))
        const tooLarge = yield* Effect.flip(store.modify("a", (value) => value.repeat(500)))
        assert.deepStrictEqual([tooLarge.method, tooLarge.key], ["modify", "a"])
        yield* sync.release
        yield* Fiber.join(setting)
        assert.strictEqual(yield* Fiber.join(modifying), "small!")
        // The largest value that fits once fits into every snapshot.
        const largest = "x".repeat(1000 - 12 - 1 - 5 - 1 - 5)
        yield* store.set("c", largest)
        assert.isTrue(Exit.isFailure(yield* Effect.exit(store.set("c", `${largest}x`))))
        for (const i of numbers(20)) yield* store.set("d", `${i}`)
        yield* othersGoOn
        yield* close
        assert.deepStrictEqual(yield* contentsOn(disk), { a: "small!", b: "on its way", c: largest, d: "19" })
      }))

    it.effect("GC-07 fails with the reason when the log is poisoned, answers what is durable, and reopens whole", () =>
      Effect.gen(function*() {
        const disk = MemoryDisk.make()
        const { close, store } = yield* openStore(disk)
        yield* store.set("a", "1")
        disk.inject({ operation: "syncData", path: segments, fault: { kind: "lostSync" } })
        const failing = [
          ["set", store.set("a", "2")],
          ["remove", store.remove("a")],
          ["clear", store.clear],
          ["clearPrefix", store.clearPrefix("a")],
          ["modify", store.modify("a", () => "3")],
          ["modifyUint8Array", store.modifyUint8Array("a", () => bytes(3))]
        ] as const
        for (const [method, change] of failing) {
          const error = yield* Effect.flip<unknown, KeyValueStore.KeyValueStoreError, never>(change)
          assert.strictEqual(error._tag, "KeyValueStoreError")
          assert.strictEqual(error.method, method)
          assert.isTrue(error.cause instanceof WalPoisoned)
        }
        assert.deepStrictEqual(yield* contents(store), { a: "1" })
        yield* close
        disk.crash("lost")
        const again = yield* openStore(disk)
        assert.deepStrictEqual(yield* contents(again.store), { a: "1" })
        yield* again.store.set("a", "2")
        yield* again.close
        assert.strictEqual((yield* Effect.flip(again.store.set("a", "3"))).cause instanceof LogClosed, true)
        assert.deepStrictEqual(yield* contentsOn(disk), { a: "2" })
      }))
  })

  describe("layers", () => {
    const platform = (disk: MemoryDisk) => Layer.fresh(MemoryVfs.layerDisk(disk))
    const buildError = <A, E>(layer: Layer.Layer<A, E>) => Effect.flip(Effect.scoped(Layer.build(Layer.fresh(layer))))

    it.effect("works on the log in the environment, which is the store's alone", () =>
      Effect.gen(function*() {
        const disk = MemoryDisk.make()
        const log = AppendLog.layer({ directory: "/mine" })
        yield* Effect.gen(function*() {
          const store = yield* KeyValueStore.KeyValueStore
          yield* store.set("a", "1")
          const error = yield* Effect.flip(Effect.scoped(LogKeyValueStore.make()))
          assert.isTrue(error instanceof LogInUse)
        }).pipe(
          Effect.provide(Layer.provideMerge(LogKeyValueStore.layer(), log).pipe(Layer.provide(platform(disk))))
        )
        const same = LogKeyValueStore.layerDirectory({ directory: "/mine" }).pipe(Layer.provide(platform(disk)))
        yield* Effect.gen(function*() {
          assert.strictEqual(yield* (yield* KeyValueStore.KeyValueStore).get("a"), "1")
        }).pipe(Effect.provide(same))
      }))

    it.effect("LOG-10 refuses a directory that is open, and one that holds something else", () =>
      Effect.gen(function*() {
        const disk = MemoryDisk.make()
        const { close } = yield* openStore(disk)
        const store = LogKeyValueStore.layerDirectory({ directory: "/store" }).pipe(Layer.provide(platform(disk)))
        assert.isTrue((yield* buildError(store)) instanceof LogLocked)
        yield* close
        const queues = LogPersistedQueue.layerStoreDirectory({ directory: "/store" }).pipe(
          Layer.provide(platform(disk))
        )
        const error = yield* buildError(queues as Layer.Layer<PersistedQueue.PersistedQueueStore, unknown>)
        assert.isTrue(error instanceof WrongStateKind && error.found === "KVST" && error.expected === "QUEU")
        yield* openStore(disk)
      }))

    it.effect("is configured by the environment, and refuses bad values with their name", () =>
      Effect.gen(function*() {
        const disk = MemoryDisk.make()
        const configured = (env: Record<string, string>) =>
          LogKeyValueStore.layerConfig.pipe(
            Layer.provide(platform(disk)),
            Layer.provide(ConfigProvider.layer(ConfigProvider.fromEnvRecord(env)))
          )
        yield* Effect.gen(function*() {
          yield* (yield* KeyValueStore.KeyValueStore).set("a", "x".repeat(50))
          const error = yield* Effect.flip((yield* KeyValueStore.KeyValueStore).set("a", "x".repeat(100)))
          assert.isTrue(error.cause instanceof RecordTooLarge)
        }).pipe(
          Effect.provide(
            configured({ TIDEMARK_KEY_VALUE_DIRECTORY: "/env", TIDEMARK_KEY_VALUE_MAX_RECORD_BYTES: "100" })
          )
        )
        assert.include(disk.files.join(), "/env/")
        const missing = yield* buildError(configured({}))
        assert.isTrue(missing instanceof Config.ConfigError)
        assert.include(String(missing), "TIDEMARK_KEY_VALUE_DIRECTORY")
        const bad = yield* buildError(
          configured({ TIDEMARK_KEY_VALUE_DIRECTORY: "/env", TIDEMARK_KEY_VALUE_SNAPSHOT_RATIO: "0" })
        )
        assert.include(String(bad), "TIDEMARK_KEY_VALUE_SNAPSHOT_RATIO")
      }))
  })
})

const without = (model: Record<string, string>, matches: (key: string) => boolean) =>
  Object.fromEntries(Object.entries(model).filter(([key]) => !matches(key)))

const sorted = (model: Record<string, string | undefined>) =>
  Object.entries(model).toSorted(([a], [b]) => a < b ? -1 : 1)
