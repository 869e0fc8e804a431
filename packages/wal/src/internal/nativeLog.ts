/**
 * Puts the parts of a native log together: capsules, markers, the engine over them, readers, checkpoints, and the two
 * services.
 */
import type { FileLock } from "@tidemark/platform/FileLock"
import { Vfs } from "@tidemark/platform/Vfs"
import { VfsError } from "@tidemark/platform/VfsError"
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Metric from "effect/Metric"
import * as References from "effect/References"
import type * as Scope from "effect/Scope"
import { capsulePath, maxCapsulePages } from "../CapsuleFormat.ts"
import { type CapsuleStore, makeCapsuleStore } from "../CapsuleStore.ts"
import * as GroupCommit from "../GroupCommit.ts"
import { Exhausted } from "../LogErrors.ts"
import { MarkersDamaged } from "../MarkerErrors.ts"
import { markerBytes } from "../MarkerFormat.ts"
import { makeMarkerReader, type MarkerFiles } from "../MarkerStore.ts"
import type { NativeLog, NativeLogOptions, OpenNativeError } from "../NativeLog.ts"
import { forkAutoCheckpoint } from "./autoCheckpoint.ts"
import { makeMarkerSink } from "./markerSink.ts"
import { NativeCheckpoint } from "./nativeCheckpoint.ts"
import { nativeDefaults as defaults } from "./nativeDefaults.ts"
import { NativeState } from "./nativeState.ts"
import { openNative } from "./openNative.ts"
import { SegmentReaders } from "./segmentReaders.ts"

/** @internal */
export const makeNativeLog = Effect.fnUntraced(function*(
  options: NativeLogOptions
): Effect.fn.Return<
  { readonly nativeLog: NativeLog["Service"]; readonly capsules: CapsuleStore["Service"] },
  OpenNativeError,
  Vfs | FileLock | Scope.Scope
> {
  const vfs = yield* Vfs
  const clock = yield* Clock.Clock
  const { database } = options
  const { databaseFile, examination, index, pageSize, ...opened } = yield* openNative(options)
  const damage = opened.markers instanceof MarkersDamaged ? opened.markers : undefined
  const files = opened.markers instanceof MarkersDamaged ? undefined : opened.markers
  const context = Context.add(yield* Effect.context<never>(), Metric.CurrentMetricAttributes, { log: database })
  const store = yield* makeCapsuleStore(vfs, { database, maxSpareBytes: options.maxSpareBytes })
  const room = { missed: 0, seen: 0 }
  const capsules = damage !== undefined ? readOnly(store) : ofRunningLog(store, {
    isNamed: (path) => state.isNamed(path),
    onFull: () => {
      room.missed++
      state.onPublished()
    }
  })
  const state = new NativeState({
    database,
    databaseFile,
    pageSize,
    published: opened.published,
    isMarked: opened.isMarked,
    index,
    capsules,
    markers: files,
    clock,
    context
  })
  const make = GroupCommit.make(files === undefined ? closedSink(database) : sinkOf(database, files, state), {
    ...options.groupCommit,
    maxBatchBytes: options.groupCommit?.maxBatchBytes ?? defaults.maxBatchBytes,
    maxRecordBytes: markerBytes
  })
  // That it ends poisoned is no news where it has begun so.
  const engine = yield* damage === undefined ? make : Effect.provideService(make, References.MinimumLogLevel, "None")
  state.engine = engine
  if (damage !== undefined) {
    engine.poison(Cause.fail(damage))
    yield* Effect.logWarning(`${database} is open for reading only: ${damage.message}`)
  }
  const recovered = {
    base: index.segments.length === 0 ? state.published.commitSeq : examination.base,
    tip: state.published.commitSeq,
    pages: Array.from(index.newestVersions())
  }
  const readers = new SegmentReaders(vfs, databaseFile, pageSize, index)
  const checkpoint = new NativeCheckpoint({
    vfs,
    database,
    databaseFile,
    pageSize,
    log: state,
    index,
    readers,
    removable: [],
    capsules: store,
    previous: examination.mark
  })
  // Before the finalizer of the engine, which then has nothing left to do.
  yield* Effect.addFinalizer(() =>
    Effect.andThen(Effect.ignore(engine.close), checkpoint.close(options.checkpointOnClose !== false))
  )
  let attemptedAt = -index.records
  yield* forkAutoCheckpoint({
    threshold: damage === undefined ? options.autoCheckpointFrames ?? defaults.autoCheckpointFrames : 0,
    // A capsule that found no room may find some when a checkpoint has let others go: one round for each that did not.
    sinceLastRound: () =>
      room.missed > room.seen && index.segments.length > 0 ? Infinity : state.recordsPublished - attemptedAt,
    onPublished: (listener) => {
      state.onPublished = listener
    },
    round: Effect.suspend(() => {
      attemptedAt = state.recordsPublished
      const isRoomShort = room.missed > room.seen
      room.seen = room.missed
      return isRoomShort ? Effect.andThen(checkpoint.automatic, checkpoint.removeSpares) : checkpoint.automatic
    })
  })

  const nativeLog: NativeLog["Service"] = {
    database,
    pageSize,
    startUp: examination,
    commits: {
      database,
      pageSize,
      published: () => state.published,
      recovered: { base: recovered.base, tip: recovered.tip, pages: () => recovered.pages },
      ended: engine.ended,
      commitBytes: () => markerBytes,
      refuse: (pageCount) =>
        pageCount <= maxCapsulePages
          ? undefined
          : new Exhausted({ what: "pages of a capsule", limit: BigInt(maxCapsulePages) }),
      restore: (tip, walOffset) => state.restore(tip, walOffset),
      admit: engine.admit,
      appendUnsafe: (commit, waiter) => state.append(commit, waiter),
      poison: engine.poison,
      // A failure is told to those who wait.
      settle: Effect.ignore(engine.flushNow),
      openReader: () => readers.open(state.published),
      isSeenByReaders: (commit) => readers.registry.isAtLeast(commit),
      onRestart: (listener) => {
        readers.listeners.push(listener)
      },
      onPublished: (listener) => {
        state.publishedListeners.push(listener)
      }
    },
    markers: makeMarkerReader(vfs, {
      segments: () => files?.segments() ?? examination.markers?.segments ?? [],
      through: () => state.published.commitSeq
    }),
    lastTxnId: examination.lastTxnId,
    inLog: () => ({ records: index.records, capsules: index.segments.length }),
    checkpoint: (mode, how) => checkpoint.run(mode, how?.busyTimeout ?? defaults.busyTimeout)
  }
  return { nativeLog, capsules }
})

const sinkOf = (database: string, files: MarkerFiles, state: NativeState): GroupCommit.GroupCommitSink =>
  makeMarkerSink({
    name: database,
    files,
    barrier: state.barrier,
    onDurable: (through) => state.publish(through),
    onPoisoned: () => state.forget()
  })

/** The same, but what commits need is not removed, and it says when the disk is full. */
const ofRunningLog = (
  store: CapsuleStore["Service"],
  { isNamed, onFull }: { readonly isNamed: (path: string) => boolean; readonly onFull: () => void }
): CapsuleStore["Service"] => ({
  ...store,
  put: (capsule) =>
    Effect.tapError(store.put(capsule), ({ code }) => code === "ENOSPC" ? Effect.sync(onFull) : Effect.void),
  remove: (id) => Effect.suspend(() => isNamed(capsulePath(store.database, id)) ? Effect.void : store.remove(id))
})

/** Under a log that is poisoned before anything can be handed over (RC-26). */
const closedSink = (name: string): GroupCommit.GroupCommitSink => {
  const never = Effect.die(new Error("nothing is written to a log that can only be read"))
  return { name, write: () => never, sync: never, writeAndSync: () => never }
}

/** Changes nothing on the disk (RC-26). */
const readOnly = (store: CapsuleStore["Service"]): CapsuleStore["Service"] => {
  const refuse = (operation: VfsError["operation"], path: string) =>
    Effect.suspend(() =>
      Effect.fail(
        new VfsError({ operation, path, code: "EROFS", cause: new Error("the database is open for reading only") })
      )
    )
  return {
    ...store,
    put: ({ id }) => refuse("write", capsulePath(store.database, id)),
    sync: () => refuse("syncData", store.directory),
    remove: (id) => refuse("remove", capsulePath(store.database, id)),
    recycle: (id) => refuse("remove", capsulePath(store.database, id)),
    removeSpares: Effect.void
  }
}
