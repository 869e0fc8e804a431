/**
 * What Effect's `KeyValueStore` promises: from the documentation of the interface, and from what `layerMemory` does
 * where that is silent. A layer that passes can be swapped for another that passes.
 */
import { assert, describe, it } from "@effect/vitest"
import { Cause, Effect, Exit, type Layer, Option, Schema } from "effect"
import { KeyValueStore } from "effect/persistence"
import fc from "fast-check"

type Store = KeyValueStore.KeyValueStore

const bytes = (...values: ReadonlyArray<number>) => new Uint8Array(values)

/** Runs the suite against a layer. `layer` is called for each test and gives an empty store each time. */
export const keyValueStoreContract = (name: string, layer: () => Layer.Layer<Store, unknown>): void => {
  const test = <E>(title: string, body: (store: Store) => Effect.Effect<void, E>) =>
    it.effect(
      title,
      () => Effect.provide(Effect.flatMap(KeyValueStore.KeyValueStore, body), layer(), { local: true })
    )

  describe(`KeyValueStore contract: ${name}`, () => {
    test("is empty at first", (store) =>
      Effect.gen(function*() {
        assert.strictEqual(yield* store.size, 0)
        assert.isTrue(yield* store.isEmpty)
        assert.deepStrictEqual(yield* store.keys, [])
      }))

    test("answers undefined for a key that is not there", (store) =>
      Effect.gen(function*() {
        assert.isUndefined(yield* store.get("a"))
        assert.isUndefined(yield* store.getUint8Array("a"))
        assert.isFalse(yield* store.has("a"))
      }))

    test("keeps texts", (store) =>
      Effect.gen(function*() {
        yield* store.set("a", "one")
        yield* store.set("b", "")
        assert.strictEqual(yield* store.get("a"), "one")
        assert.strictEqual(yield* store.get("b"), "")
        assert.isTrue(yield* store.has("a"))
        assert.isTrue(yield* store.has("b"))
        assert.strictEqual(yield* store.size, 2)
        assert.isFalse(yield* store.isEmpty)
      }))

    test("keeps bytes", (store) =>
      Effect.gen(function*() {
        yield* store.set("a", bytes(0, 255, 128))
        yield* store.set("b", bytes())
        assert.deepStrictEqual(yield* store.getUint8Array("a"), bytes(0, 255, 128))
        assert.deepStrictEqual(yield* store.getUint8Array("b"), bytes())
        assert.isTrue(yield* store.has("b"))
      }))

    test("keeps the bytes of a view, not those around it", (store) =>
      Effect.gen(function*() {
        yield* store.set("a", bytes(1, 2, 3, 4, 5).subarray(1, 3))
        assert.deepStrictEqual(Array.from((yield* store.getUint8Array("a")) ?? []), [2, 3])
      }))

    test("answers bytes as base64 when asked for text, and text as UTF-8 when asked for bytes", (store) =>
      Effect.gen(function*() {
        yield* store.set("bytes", bytes(0, 255, 128))
        yield* store.set("text", "é€😀")
        assert.strictEqual(yield* store.get("bytes"), "AP+A")
        assert.deepStrictEqual(yield* store.getUint8Array("text"), new TextEncoder().encode("é€😀"))
      }))

    test("does not take text that looks like base64 for bytes", (store) =>
      Effect.gen(function*() {
        yield* store.set("a", "AP+A")
        assert.strictEqual(yield* store.get("a"), "AP+A")
        assert.deepStrictEqual(yield* store.getUint8Array("a"), new TextEncoder().encode("AP+A"))
      }))

    test("replaces a value, of the other type as well", (store) =>
      Effect.gen(function*() {
        yield* store.set("a", "one")
        yield* store.set("a", "two")
        assert.strictEqual(yield* store.get("a"), "two")
        yield* store.set("a", bytes(1))
        assert.deepStrictEqual(yield* store.getUint8Array("a"), bytes(1))
        yield* store.set("a", "three")
        assert.strictEqual(yield* store.get("a"), "three")
        assert.strictEqual(yield* store.size, 1)
      }))

    test("removes", (store) =>
      Effect.gen(function*() {
        yield* store.set("a", "one")
        yield* store.set("b", "two")
        yield* store.remove("a")
        assert.isUndefined(yield* store.get("a"))
        assert.isFalse(yield* store.has("a"))
        assert.strictEqual(yield* store.get("b"), "two")
        assert.strictEqual(yield* store.size, 1)
        yield* store.remove("a")
        yield* store.remove("never there")
        assert.strictEqual(yield* store.size, 1)
        yield* store.set("a", "again")
        assert.strictEqual(yield* store.get("a"), "again")
      }))

    test("clears", (store) =>
      Effect.gen(function*() {
        yield* store.clear
        yield* store.set("a", "one")
        yield* store.set("b", bytes(1))
        yield* store.clear
        assert.isTrue(yield* store.isEmpty)
        assert.deepStrictEqual(yield* store.keys, [])
        assert.isUndefined(yield* store.get("a"))
        yield* store.set("a", "two")
        assert.strictEqual(yield* store.get("a"), "two")
      }))

    test("clears the keys that start with a prefix, and no others", (store) =>
      Effect.gen(function*() {
        for (const key of ["a", "a/1", "a/2", "A/3", "b/a/", "a%", "a_1", ""]) yield* store.set(key, key)
        yield* store.clearPrefix("a/")
        assert.deepStrictEqual((yield* store.keys).toSorted(), ["", "A/3", "a", "a%", "a_1", "b/a/"])
        yield* store.clearPrefix("a_")
        yield* store.clearPrefix("%")
        assert.deepStrictEqual((yield* store.keys).toSorted(), ["", "A/3", "a", "a%", "b/a/"])
        yield* store.clearPrefix("a")
        assert.deepStrictEqual((yield* store.keys).toSorted(), ["", "A/3", "b/a/"])
        yield* store.clearPrefix("")
        assert.isTrue(yield* store.isEmpty)
      }))

    test("lists its keys as they were", (store) =>
      Effect.gen(function*() {
        yield* store.set("b", "1")
        yield* store.set("a", "2")
        const keys = yield* store.keys
        yield* store.set("c", "3")
        yield* store.remove("a")
        assert.deepStrictEqual(keys.toSorted(), ["a", "b"])
        assert.deepStrictEqual((yield* store.keys).toSorted(), ["b", "c"])
      }))

    test("modifies a text that is there", (store) =>
      Effect.gen(function*() {
        yield* store.set("a", "one")
        assert.strictEqual(yield* store.modify("a", (value) => `${value}!`), "one!")
        assert.strictEqual(yield* store.get("a"), "one!")
      }))

    test("modifies bytes that are there", (store) =>
      Effect.gen(function*() {
        yield* store.set("a", bytes(1, 2))
        const modified = yield* store.modifyUint8Array("a", (value) => bytes(...value, 3))
        assert.deepStrictEqual(modified, bytes(1, 2, 3))
        assert.deepStrictEqual(yield* store.getUint8Array("a"), bytes(1, 2, 3))
      }))

    test("modifies a value through the other type", (store) =>
      Effect.gen(function*() {
        yield* store.set("a", bytes(0, 255, 128))
        assert.strictEqual(yield* store.modify("a", (value) => `${value}|`), "AP+A|")
        assert.strictEqual(yield* store.get("a"), "AP+A|")
        yield* store.set("b", "xy")
        yield* store.modifyUint8Array("b", (value) => value.slice(1))
        assert.deepStrictEqual(yield* store.getUint8Array("b"), bytes(0x79))
      }))

    test("modifies nothing that is not there", (store) =>
      Effect.gen(function*() {
        const fail = () => assert.fail("nothing to modify")
        assert.isUndefined(yield* store.modify("a", fail))
        assert.isUndefined(yield* store.modifyUint8Array("a", fail))
        assert.isTrue(yield* store.isEmpty)
      }))

    test("leaves the value alone when the modification throws", (store) =>
      Effect.gen(function*() {
        yield* store.set("a", "one")
        const exit = yield* Effect.exit(store.modify("a", () => {
          throw new Error("no")
        }))
        assert.isTrue(Exit.isFailure(exit) && Cause.hasDies(exit.cause))
        assert.strictEqual(yield* store.get("a"), "one")
        yield* store.set("a", "two")
        assert.strictEqual(yield* store.get("a"), "two")
      }))

    test("takes any string as a key", (store) =>
      Effect.gen(function*() {
        const keys = [
          "",
          ".",
          "..",
          "a/b",
          "a\\b",
          "__proto__",
          "constructor",
          "\u0000",
          "é",
          "😀",
          "\ud83d",
          "\ude00",
          " "
        ]
        for (const key of keys) yield* store.set(key, `<${key}>`)
        assert.strictEqual(yield* store.size, keys.length)
        assert.deepStrictEqual((yield* store.keys).toSorted(), keys.toSorted())
        for (const key of keys) assert.strictEqual(yield* store.get(key), `<${key}>`)
        for (const key of keys) yield* store.remove(key)
        assert.isTrue(yield* store.isEmpty)
      }))

    test("keeps large values", (store) =>
      Effect.gen(function*() {
        const text = "0123456789abcdef".repeat(64 * 1024)
        const large = new TextEncoder().encode(text)
        yield* store.set("text", text)
        yield* store.set("bytes", large)
        assert.strictEqual(yield* store.get("text"), text)
        assert.strictEqual(Buffer.compare((yield* store.getUint8Array("bytes")) ?? bytes(), large), 0)
      }))

    test("does what it is told each time that it is run", (store) =>
      Effect.gen(function*() {
        const set = store.set("a", "one")
        const { isEmpty, keys, size } = store
        const get = store.get("a")
        assert.strictEqual(yield* size, 0)
        yield* set
        assert.strictEqual(yield* size, 1)
        assert.strictEqual(yield* get, "one")
        yield* store.clear
        assert.isTrue(yield* isEmpty)
        yield* set
        assert.deepStrictEqual(yield* keys, ["a"])
        assert.strictEqual(yield* get, "one")
      }))

    test("sees its own changes", (store) =>
      Effect.gen(function*() {
        for (let i = 0; i < 20; i++) {
          yield* store.set("a", `${i}`)
          assert.strictEqual(yield* store.get("a"), `${i}`)
        }
      }))

    test("loses no change of many at the same time", (store) =>
      Effect.gen(function*() {
        yield* store.set("count", "0")
        yield* Effect.forEach(
          Array.from({ length: 80 }, (_, i) => i),
          (i) =>
            Effect.andThen(
              store.set(`key ${i}`, `${i}`),
              store.modify("count", (count) => `${Number(count) + 1}`)
            ),
          { concurrency: "unbounded", discard: true }
        )
        assert.strictEqual(yield* store.size, 81)
        assert.strictEqual(yield* store.get("count"), "80")
        for (let i = 0; i < 80; i++) assert.strictEqual(yield* store.get(`key ${i}`), `${i}`)
      }))

    test("has views by prefix", (store) =>
      Effect.gen(function*() {
        const one = KeyValueStore.prefix(store, "one/")
        const two = KeyValueStore.prefix(store, "two/")
        yield* one.set("a", "1")
        yield* one.set("b", "2")
        yield* two.set("a", "3")
        assert.strictEqual(yield* one.get("a"), "1")
        assert.strictEqual(yield* two.get("a"), "3")
        assert.deepStrictEqual((yield* one.keys).toSorted(), ["a", "b"])
        assert.strictEqual(yield* store.get("two/a"), "3")
        yield* one.clear
        assert.strictEqual(yield* one.size, 0)
        assert.strictEqual(yield* two.size, 1)
      }))

    test("carries a store with a schema", (store) =>
      Effect.gen(function*() {
        const visits = KeyValueStore.toSchemaStore(store, Schema.Struct({ count: Schema.Int, at: Schema.Date }))
        const first = { count: 1, at: new Date(1_700_000_000_000) }
        assert.deepStrictEqual(yield* visits.get("a"), Option.none())
        yield* visits.set("a", first)
        assert.deepStrictEqual(yield* visits.get("a"), Option.some(first))
        yield* visits.modify("a", (visit) => ({ ...visit, count: visit.count + 1 }))
        assert.deepStrictEqual(yield* visits.get("a"), Option.some({ ...first, count: 2 }))
      }))

    it.effect("does what a map does, whatever it is told", () =>
      Effect.promise(() =>
        fc.assert(
          fc.asyncProperty(fc.array(anyAction, { maxLength: 30 }), (actions) =>
            Effect.runPromise(Effect.provide(
              Effect.flatMap(KeyValueStore.KeyValueStore, (store) => replay(store, actions)),
              layer(),
              { local: true }
            ) as Effect.Effect<void>)),
          { numRuns: 25 }
        )
      ))
  })
}

const anyKey = fc.constantFrom("", "a", "ab", "abc", "b", "ba")
const anyValue = fc.oneof(fc.string(), fc.uint8Array({ maxLength: 4 }).map((value) => new Uint8Array(value)))
const anyAction = fc.oneof(
  fc.record({ do: fc.constant("set" as const), key: anyKey, value: anyValue }),
  fc.record({ do: fc.constantFrom("remove" as const, "modify" as const, "clearPrefix" as const), key: anyKey }),
  fc.record({ do: fc.constant("clear" as const) })
)
type Action = typeof anyAction extends fc.Arbitrary<infer A> ? A : never

const textOf = (value: string | Uint8Array) => typeof value === "string" ? value : Buffer.from(value).toString("base64")

const replay = Effect.fnUntraced(function*(store: Store, actions: ReadonlyArray<Action>) {
  const model = new Map<string, string | Uint8Array>()
  for (const action of actions) {
    switch (action.do) {
      case "set":
        yield* store.set(action.key, action.value)
        model.set(action.key, action.value)
        break
      case "remove":
        yield* store.remove(action.key)
        model.delete(action.key)
        break
      case "modify": {
        const before = model.get(action.key)
        const after = before === undefined ? undefined : `${textOf(before)}+`
        assert.strictEqual(yield* store.modify(action.key, (value) => `${value}+`), after)
        if (after !== undefined) model.set(action.key, after)
        break
      }
      case "clearPrefix":
        yield* store.clearPrefix(action.key)
        for (const key of model.keys()) if (key.startsWith(action.key)) model.delete(key)
        break
      case "clear":
        yield* store.clear
        model.clear()
        break
    }
    assert.strictEqual(yield* store.size, model.size)
    assert.deepStrictEqual((yield* store.keys).toSorted(), Array.from(model.keys()).toSorted())
    for (const [key, value] of model) assert.strictEqual(yield* store.get(key), textOf(value))
  }
})
