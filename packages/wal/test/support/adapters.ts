/** The adapters on a memory disk, one process after the other. */
import type { MemoryDisk } from "@tidemark/platform/MemoryDisk"
import * as MemoryVfs from "@tidemark/platform/MemoryVfs"
import { Effect, Exit, Layer, References, Scope } from "effect"
import { EventJournal } from "effect/eventlog"
import { KeyValueStore, PersistedQueue } from "effect/persistence"
import * as LogEventJournal from "../../src/LogEventJournal.ts"
import * as LogKeyValueStore from "../../src/LogKeyValueStore.ts"
import * as LogPersistedQueue from "../../src/LogPersistedQueue.ts"
import type { LogStateDirectoryOptions, Platform } from "../../src/LogState.ts"

export type Options = Partial<LogStateDirectoryOptions>

/** Segments of a few records, and a snapshot nearly always. */
export const tooLong: Options = { segmentBytes: 512, snapshotMinBytes: 0, snapshotRatio: 0.01 }

export const segments = /\/[0-9a-f]{16}\.tlog$/

/** Small enough to be opened a thousand times. */
const segmentBytes = 64 * 1024

/** Lets everybody else go as far as they can get without the clock. */
export const othersGoOn = Effect.forEach(Array.from({ length: 100 }), () => Effect.yieldNow, { discard: true })

/** Builds a layer as a process of its own on a disk, until the scope closes or `close` is called. */
const processOn = Effect.fnUntraced(function*<A, I, E>(
  disk: MemoryDisk,
  service: Effect.Effect<A, never, I>,
  layer: Layer.Layer<I, E, Platform>
) {
  const scope = yield* Scope.fork(yield* Effect.scope)
  const close = Scope.close(scope, Exit.void)
  const platform = Layer.fresh(MemoryVfs.layerDisk(disk))
  const context = yield* Layer.buildWithScope(Layer.fresh(Layer.provide(layer, platform)), scope).pipe(
    Effect.onError(() => close)
  )
  return { service: yield* Effect.provideContext(service, context), close }
})

/** Opens the store of a disk. */
export const openStore = (disk: MemoryDisk, options: Options = {}) =>
  Effect.map(
    processOn(
      disk,
      KeyValueStore.KeyValueStore,
      LogKeyValueStore.layerDirectory({ directory: "/store", segmentBytes, ...options })
    ),
    ({ close, service }) => ({ store: service, close })
  )

/** Opens the queues of a disk. */
export const openQueues = (disk: MemoryDisk, options: Options = {}) =>
  Effect.map(
    processOn(
      disk,
      Effect.all([PersistedQueue.PersistedQueueFactory, PersistedQueue.PersistedQueueStore]),
      Layer.provideMerge(
        PersistedQueue.layer,
        LogPersistedQueue.layerStoreDirectory({ directory: "/queues", segmentBytes, ...options })
      )
    ),
    ({ close, service: [factory, store] }) => ({ factory, store, close })
  )

/** Opens the journal of a disk. */
export const openJournal = (disk: MemoryDisk, options: Options = {}) =>
  Effect.map(
    processOn(
      disk,
      EventJournal.EventJournal,
      LogEventJournal.layerDirectory({ directory: "/journal", segmentBytes, ...options })
    ),
    ({ close, service }) => ({ journal: service, close })
  )

/** How a process ends: in order, or with the power. */
export type Ending = "closed" | "powerLost"

/**
 * Runs a call in a process of its own, which ends as told when the call is answered. Whatever it answers has to be
 * there in the next process.
 */
export const inOwnProcess = <P extends { readonly close: Effect.Effect<void> }, A, E, E2, R>(
  disk: MemoryDisk,
  ending: Ending,
  open: Effect.Effect<P, E, Scope.Scope>,
  call: (process: P) => Effect.Effect<A, E2, R>
): Effect.Effect<A, E2, R> =>
  // What is left of `R` without the scope is `R`: no call asks for the scope of its process.
  Effect.scoped(Effect.gen(function*() {
    const process = yield* Effect.orDie(open)
    const exit = yield* Effect.exit(call(process))
    if (ending === "powerLost") disk.crash("lost")
    yield* process.close
    return yield* exit
    // A process that the power is taken from has much to say about it.
  })).pipe(
    Effect.provideService(References.MinimumLogLevel, ending === "powerLost" ? "None" : "Warn")
  ) as Effect.Effect<
    A,
    E2,
    R
  >
