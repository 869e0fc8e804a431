/**
 * Effect's `KeyValueStore` on an append log: every change is durable before it is seen.
 *
 * **When to use**
 *
 * Use for settings, sessions, caches, cursors and other state of an application that fits into memory and must not be
 * lost, and as the storage of `Persistence.layerKvs`.
 *
 * **Details**
 *
 * 1. `set`, `remove`, `clear`, `clearPrefix` and `modify` are done when a completed sync covers them, and only then a
 *    reader sees them. Changes that come at the same time share one sync.
 * 2. Changes happen in one order, which is that of the log. `modify` and `modifyUint8Array` read and write in one step
 *    of that order, also while changes before them are on their way to the disk: no update is lost.
 * 3. A read is a look into memory.
 *
 * **Gotchas**
 *
 * All keys and values are kept in memory. A value above `maxRecordBytes` of the log (16 MiB) is refused with a
 * `KeyValueStoreError` whose cause is `RecordTooLarge`. When the log has ended, changes fail with the reason as their
 * cause, and reads go on to answer what is known to be durable; see `docs/how-to/effect-adapters.md`. A change that is
 * interrupted while it waits may happen all the same.
 *
 * @since 0.1.0
 */
import type * as Config from "effect/Config"
import * as Effect from "effect/Effect"
import * as Base64 from "effect/encoding/Base64"
import * as Layer from "effect/Layer"
import * as KeyValueStore from "effect/persistence/KeyValueStore"
import type * as Scope from "effect/Scope"
import { AppendLog } from "./AppendLog.ts"
import { KeyValueState, type PendingValue, PendingValues, type Value } from "./internal/keyValueState.ts"
import type { Decision } from "./internal/loggedState.ts"
import { overConfig, overDirectory, stateLogOptions } from "./internal/logStateLayers.ts"
import { openStateLog } from "./internal/openStateLog.ts"
import * as KeyValueFormat from "./KeyValueFormat.ts"
import type {
  CommitError,
  LogStateDirectoryOptions,
  LogStateOptions,
  OpenDirectoryError,
  OpenError,
  Platform
} from "./LogState.ts"

/**
 * Opens a key-value store over the log in the environment, which is the store's alone.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = Effect.fnUntraced(function*(
  options?: LogStateOptions
): Effect.fn.Return<KeyValueStore.KeyValueStore, OpenError, AppendLog | Scope.Scope> {
  const log = yield* AppendLog
  const stateLog = yield* openStateLog(log, definition, stateLogOptions(options))
  const { state } = stateLog
  const pending = new PendingValues(state)

  const commit = <A>(
    method: string,
    key: string | undefined,
    decide: () => Decision<KeyValueFormat.KeyValueCommand, A>
  ) => Effect.mapError(stateLog.transact(decide), (cause) => toError(method, key, cause))

  const setDecision = <A extends Value | void>(key: string, value: Value, answer: A) => {
    let staged: PendingValue | undefined
    return {
      type: "commit",
      commands: [{ type: "set", key, value }],
      stage: () => {
        staged = pending.set(key, value)
      },
      answer: () => {
        pending.forget([key], staged)
        return answer
      }
    } as const
  }

  const removeDecision = (command: KeyValueFormat.KeyValueCommand, keys: ReadonlyArray<string>) => {
    let staged: PendingValue | undefined
    return {
      type: "commit",
      commands: [command],
      stage: () => {
        staged = pending.remove(keys)
      },
      answer: () => pending.forget(keys, staged)
    } as const
  }

  const modify = <A extends Value>(method: string, key: string, read: (value: Value) => A, f: (value: A) => A) =>
    commit(method, key, (): Decision<KeyValueFormat.KeyValueCommand, A | undefined> => {
      const current = pending.latest(key)
      if (current === undefined) {
        return { type: pending.isDurable(key) ? "answer" : "answerWhenDurable", answer: undefined }
      }
      const next = f(read(current))
      return setDecision<A | undefined>(key, owned(next), next)
    })

  return KeyValueStore.make({
    get: (key) => Effect.sync(() => mapValue(state.get(key), toText)),
    getUint8Array: (key) => Effect.sync(() => mapValue(state.get(key), toBytes)),
    has: (key) => Effect.sync(() => state.get(key) !== undefined),
    size: Effect.sync(() => state.size),
    isEmpty: Effect.sync(() => state.size === 0),
    keys: Effect.sync(() => state.keys()),
    set: (key, value) =>
      Effect.suspend(() => {
        // The caller may change his bytes while this waits for room.
        const kept = owned(value)
        return commit("set", key, () => setDecision<void>(key, kept, undefined))
      }),
    remove: (key) =>
      commit("remove", key, () =>
        pending.isAbsent(key)
          ? { type: "answer", answer: undefined }
          : removeDecision({ type: "remove", key }, [key])),
    clear: commit("clear", undefined, () =>
      pending.isEmpty()
        ? { type: "answer", answer: undefined }
        : removeDecision({ type: "clear" }, pending.keys(""))),
    clearPrefix: (prefix) =>
      commit("clearPrefix", prefix, () =>
        pending.isEmpty()
          ? { type: "answer", answer: undefined }
          : removeDecision({ type: "clearPrefix", prefix }, pending.keys(prefix))),
    modify: (key, f) => modify("modify", key, toText, f),
    modifyUint8Array: (key, f) => modify("modifyUint8Array", key, toBytes, f)
  })
})

/**
 * The store over the log in the environment. One adapter per log.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (
  options?: LogStateOptions
): Layer.Layer<KeyValueStore.KeyValueStore, OpenError, AppendLog> =>
  Layer.effect(KeyValueStore.KeyValueStore, make(options))

/**
 * The store over a log of its own, which lives in a directory.
 *
 * **Example** (Counting visits for good)
 *
 * ```ts
 * import * as NodeVfs from "@tidemark/platform/NodeVfs"
 * import * as LogKeyValueStore from "@tidemark/wal/LogKeyValueStore"
 * import { Effect, Layer } from "effect"
 * import { KeyValueStore } from "effect/persistence"
 *
 * export const Storage = LogKeyValueStore.layerDirectory({ directory: "./data/settings" }).pipe(
 *   Layer.provide(NodeVfs.layer)
 * )
 *
 * export const countVisit = (visitor: string) =>
 *   Effect.gen(function*() {
 *     const store = yield* KeyValueStore.KeyValueStore
 *     const count = yield* store.modify(visitor, (count) => String(Number(count) + 1))
 *     if (count === undefined) yield* store.set(visitor, "1")
 *   })
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layerDirectory = (
  options: LogStateDirectoryOptions
): Layer.Layer<KeyValueStore.KeyValueStore, OpenDirectoryError, Platform> => overDirectory(layer, options)

/**
 * {@link layerDirectory} with options from the configuration: `TIDEMARK_KEY_VALUE_DIRECTORY`, and with the same prefix
 * `_SNAPSHOT_RATIO`, `_SNAPSHOT_MIN_BYTES`, `_MAX_QUEUED_BYTES`, `_SEGMENT_BYTES`, `_MAX_RECORD_BYTES`.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerConfig: Layer.Layer<
  KeyValueStore.KeyValueStore,
  OpenDirectoryError | Config.ConfigError,
  Platform
> = overConfig(layer, "TIDEMARK_KEY_VALUE")

const definition = {
  kind: "KVST",
  encode: KeyValueFormat.encode,
  decode: KeyValueFormat.decode,
  empty: () => new KeyValueState()
}

const encoder = new TextEncoder()

/** What the store keeps is its own, whatever happens to the bytes outside. */
const owned = (value: Value): Value => typeof value === "string" ? value : value.slice()
const toText = (value: Value): string => typeof value === "string" ? value : Base64.encode(value)
const toBytes = (value: Value): Uint8Array => typeof value === "string" ? encoder.encode(value) : value.slice()

const mapValue = <A>(value: Value | undefined, f: (value: Value) => A): A | undefined =>
  value === undefined ? undefined : f(value)

const toError = (method: string, key: string | undefined, cause: CommitError) =>
  new KeyValueStore.KeyValueStoreError({
    method,
    ...(key === undefined ? {} : { key }),
    message: `${method} failed: ${cause.message}`,
    cause
  })
