import { MemoryDisk } from "@tidemark/platform/MemoryDisk"
import * as MemoryVfs from "@tidemark/platform/MemoryVfs"
import { Effect, Layer } from "effect"
import { KeyValueStore } from "effect/persistence"
import * as LogKeyValueStore from "../src/LogKeyValueStore.ts"
import { keyValueStoreContract } from "./KeyValueStoreContract.ts"
import { type Ending, inOwnProcess, openStore, type Options, tooLong } from "./support/adapters.ts"

const layerOn = (options: Options) =>
  LogKeyValueStore.layerDirectory({ directory: "/store", ...options }).pipe(
    Layer.provide(MemoryVfs.layerDisk(MemoryDisk.make()))
  )

/** A store that lives for one call only. Calls that come at the same time follow one another. */
const oneCallPerProcess = (ending: Ending, options: Options) =>
  Layer.effect(
    KeyValueStore.KeyValueStore,
    Effect.sync(() => {
      const disk = MemoryDisk.make()
      let last: Promise<unknown> = Promise.resolve()
      const call = <A, E>(use: (store: KeyValueStore.KeyValueStore) => Effect.Effect<A, E>): Effect.Effect<A, E> =>
        Effect.flatten(Effect.promise(() => {
          const turn = last.then(() =>
            Effect.runPromise(
              Effect.exit(inOwnProcess(disk, ending, openStore(disk, options), ({ store }) => use(store)))
            )
          )
          last = turn
          return turn
        }))
      return KeyValueStore.make({
        get: (key) => call((store) => store.get(key)),
        getUint8Array: (key) => call((store) => store.getUint8Array(key)),
        set: (key, value) => call((store) => store.set(key, value)),
        remove: (key) => call((store) => store.remove(key)),
        clear: call((store) => store.clear),
        clearPrefix: (prefix) => call((store) => store.clearPrefix(prefix)),
        size: call((store) => store.size),
        keys: call((store) => store.keys),
        has: (key) => call((store) => store.has(key)),
        isEmpty: call((store) => store.isEmpty),
        modify: (key, f) => call((store) => store.modify(key, f)),
        modifyUint8Array: (key, f) => call((store) => store.modifyUint8Array(key, f))
      })
    })
  )

keyValueStoreContract("Effect's memory layer", () => KeyValueStore.layerMemory)

keyValueStoreContract("LogKeyValueStore", () => layerOn({}))

// Every test runs across snapshots and truncations.
keyValueStoreContract("LogKeyValueStore with a log that is always too long", () => layerOn(tooLong))

keyValueStoreContract("LogKeyValueStore that is closed after each call", () => oneCallPerProcess("closed", {}))

keyValueStoreContract(
  "LogKeyValueStore whose power fails after each call, with a log that is always too long",
  () => oneCallPerProcess("powerLost", tooLong)
)
