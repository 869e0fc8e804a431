/**
 * The service over a header, wherever that lies: reading with a bounded wait, and the publisher.
 */
import { invariant } from "@tidemark/core/Invariant"
import type { PageSize } from "@tidemark/core/Scalars"
import type { ProcessIdentity, ProcessLiveness } from "@tidemark/platform/ProcessLiveness"
import type { SharedRegion } from "@tidemark/platform/SharedMemory"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Scope from "effect/Scope"
import { Busy } from "../CoordinatorErrors.ts"
import type { DurableState, HeaderPublisher, HeaderSnapshot, SharedHeader } from "../SharedHeader.ts"
import { fromPublisherWord, maxTxnId, offsets, toPublisherWord } from "../SharedHeaderFormat.ts"
import { type HeaderPlace, isUnpublished } from "./headerPlace.ts"
import { WindowReader, writeWindow } from "./headerWindow.ts"
import { endUnnamedWriter, makeSerializedWriter } from "./serializedWriter.ts"
import { makeTransactionSlots } from "./transactionSlots.ts"
import { allocateTxnId, whyNoTxnId } from "./txnIds.ts"

/** How long a fiber waits for an open window before it asks whether the publisher lives (SHM-04). */
const patienceNanos = 1_000_000n

/** Turns of the event loop in which it looks again before it sleeps for the rest of that time. */
const maxTurns = 64

/** The generation of a publisher, after which it begins at 0 again. */
const maxGeneration = 0x7fffffff

/** Raises a word, and never lowers it. */
const raise = (region: SharedRegion, offset: number, atLeast: bigint) => {
  let found = region.load(offset)
  while (found < atLeast) {
    const was = region.compareExchange(offset, found, atLeast)
    if (was === found) return
    found = was
  }
}

/**
 * Sets what the log says. The next transaction id is set before the window closes, so that a transaction which sees the
 * snapshot gets an id that was never in the log.
 */
const reconcileRegion = (region: SharedRegion, durable: DurableState) => {
  invariant(durable.nextTxnId >= 1n && durable.nextTxnId <= maxTxnId + 1n, "a next transaction id is 1 ... 2^62")
  const found = region.load(offsets.nextTxnId)
  // Nobody counts that far: the word is damaged, and what it says is worth nothing.
  if (found > maxTxnId + 1n) region.compareExchange(offsets.nextTxnId, found, durable.nextTxnId)
  raise(region, offsets.nextTxnId, durable.nextTxnId)
  // A horizon is never above what is published. Only a header that was ahead of the log can have one that is.
  const horizon = region.load(offsets.gcHorizon)
  if (horizon > durable.commitSeq) region.compareExchange(offsets.gcHorizon, horizon, durable.commitSeq)
  writeWindow(region, durable)
}

/** @internal */
export const makeSharedHeader = Effect.fnUntraced(function*(
  place: HeaderPlace,
  options: {
    readonly pageSize: PageSize
    /** `undefined`: only this process sees the header. */
    readonly liveness: ProcessLiveness["Service"] | undefined
  }
): Effect.fn.Return<SharedHeader["Service"]> {
  const { liveness } = options
  const self: ProcessIdentity = liveness?.self ?? { pid: process.pid, birth: 0n }
  const clock = yield* Clock.Clock
  const nowNanos = () => clock.monotonicTimeNanosUnsafe()
  const reader = new WindowReader(place.region, nowNanos)
  let isPublishing = false

  const stillOpen = Effect.gen(function*() {
    const region = place.region()
    if (isUnpublished(region)) {
      return new Busy({ reason: `nobody has published in ${place.path} yet`, retryAfterMillis: 50 })
    }
    if (yield* place.isPublisherAlive) {
      const { pid } = fromPublisherWord(region.load(offsets.publisherOwner))
      return new Busy({
        reason: `process ${pid} is in the middle of publishing a commit in ${place.path}`,
        retryAfterMillis: 1
      })
    }
    return new Busy({
      reason: `the publisher of ${place.path} died while it published, and nobody has taken its place yet`,
      retryAfterMillis: 50
    })
  })

  const waitForWindow = Effect.gen(function*() {
    const deadline = nowNanos() + patienceNanos
    for (let turn = 0; turn < maxTurns && nowNanos() < deadline; turn++) {
      yield* Effect.yieldNow
      const snapshot = reader.read()
      if (snapshot !== undefined) return snapshot
    }
    const leftNanos = deadline - nowNanos()
    if (leftNanos > 0n) yield* Effect.sleep(Number(leftNanos) / 1e6)
    const busy = yield* stillOpen
    return reader.read() ?? (yield* busy)
  })

  /** Names this process as the publisher. `undefined`: another one was quicker, where that decides. */
  const takeOwnerWord = (region: SharedRegion): number | undefined => {
    const found = region.load(offsets.publisherOwner)
    const before = fromPublisherWord(found)
    if (!place.isLocked && before.pid !== 0) return undefined
    const generation = before.generation === maxGeneration ? 0 : before.generation + 1
    const taken = toPublisherWord({ pid: self.pid, generation, isInitializing: true })
    if (region.compareExchange(offsets.publisherOwner, found, taken) !== found) return undefined
    region.store(offsets.publisherBirth, self.birth)
    return generation
  }

  /** For who has the right to publish. */
  const publish = Effect.fnUntraced(function*(
    durable: DurableState
  ): Effect.fn.Return<HeaderPublisher, Busy, Scope.Scope> {
    const region = place.region()
    const generation = takeOwnerWord(region)
    if (generation === undefined) {
      const { pid } = fromPublisherWord(region.load(offsets.publisherOwner))
      return yield* new Busy({ reason: `process ${pid} publishes in ${place.path}`, retryAfterMillis: 100 })
    }
    endUnnamedWriter(region)
    let isCurrent = true
    isPublishing = true
    const ownerWord = (pid: number, isInitializing: boolean) => toPublisherWord({ pid, generation, isInitializing })
    yield* Effect.addFinalizer(() =>
      Effect.sync(() => {
        isCurrent = false
        isPublishing = false
        region.store(offsets.publisherBirth, 0n)
        // The generation stays, so that the next one is larger.
        region.store(offsets.publisherOwner, ownerWord(0, false))
      })
    )

    let published = durable.commitSeq
    const reconcile = (durable: DurableState) => {
      invariant(isCurrent, "a publisher is used while its scope is open")
      reconcileRegion(region, durable)
      published = durable.commitSeq
    }
    reconcile(durable)
    region.store(offsets.publisherOwner, ownerWord(self.pid, false))
    yield* Effect.logInfo(`publishes in ${place.path} from commit ${durable.commitSeq} on (generation ${generation})`)
    return {
      generation,
      reconcile,
      publish: (state) => {
        invariant(isCurrent, "a publisher is used while its scope is open")
        invariant(state.commitSeq >= published, "what is published never goes back")
        published = state.commitSeq
        writeWindow(region, state)
      }
    }
  })

  const snapshot = Effect.suspend((): Effect.Effect<HeaderSnapshot, Busy> => {
    const snapshot = reader.read()
    return snapshot === undefined ? waitForWindow : Effect.succeed(snapshot)
  })

  return {
    path: place.path,
    pageSize: options.pageSize,
    get slots() {
      return place.slots()
    },
    region: place.region,
    snapshot,
    snapshotUnsafe: () => reader.read(),
    becomePublisher: (durable) =>
      Effect.flatMap(
        Effect.scope,
        (parent) =>
          Effect.flatMap(Scope.fork(parent), (scope) =>
            Effect.andThen(place.own, Effect.uninterruptible(publish(durable))).pipe(
              Scope.provide(scope),
              // In a scope of its own: who is refused, or interrupted, keeps no lock.
              Effect.onError(() =>
                Scope.close(scope, Exit.void)
              )
            ))
      ),
    nextTxnId: () => allocateTxnId(place.region()) ?? whyNoTxnId(place.region()),
    serialized: makeSerializedWriter({ region: place.region, liveness }),
    transactions: makeTransactionSlots({ region: place.region, liveness, snapshot }),
    refresh: place.refresh(() => isPublishing)
  }
})
