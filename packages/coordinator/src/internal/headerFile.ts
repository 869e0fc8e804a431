/**
 * The header of a database in a mapped file: opening it, making it anew, and the right to publish in it.
 *
 * Invariants:
 *
 * 1. The right to publish is the kernel lock on byte 64 of the lease file, and nothing else. The kernel takes it back
 *    after the last thread of its holder has ended, so whoever gets it knows that no store of the former holder is still
 *    to come. Byte 64 lies behind the contents of that file and beside the coordinator's own lock.
 * 2. A file gets the name only from a holder of that lock (RC-18), complete, in one step, as a new inode. Nothing is ever
 *    repaired in place, cut or removed: who has the old one keeps it until it asks for the identity (`refresh`).
 * 3. What is mapped has passed every check after it was mapped, not only before: the name may have changed hands.
 * 4. A region that was mapped once stays open until the layer ends. Whoever works in an old one (a transaction that
 *    gives its slot back) does no harm there.
 *
 * A file under the name that cannot be used has one of these reasons. Its creator is still filling it (RC-27: we do not
 * leave such a file, but another program that knows the format may), or it is damaged. Either way nobody trusts it: who
 * gets the lock makes a new one. Who does not get the lock waits for its holder, a second at most, because the holder is
 * about to do the same.
 */
import type { PageSize } from "@tidemark/core/Scalars"
import type { FileLock } from "@tidemark/platform/FileLock"
import type { ProcessLiveness } from "@tidemark/platform/ProcessLiveness"
import type { SharedMemory, SharedMemoryUnmappable, SharedRegion } from "@tidemark/platform/SharedMemory"
import type { Vfs } from "@tidemark/platform/Vfs"
import { directoryOf, isTemporaryName, nameOf } from "@tidemark/wal/AtomicFile"
import { leasePath } from "@tidemark/wal/LeaseFormat"
import { sideDirectory } from "@tidemark/wal/WalBaseFormat"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Result from "effect/Result"
import * as Scope from "effect/Scope"
import * as Semaphore from "effect/Semaphore"
import { Busy } from "../CoordinatorErrors.ts"
import type { OpenSharedHeaderError } from "../SharedHeader.ts"
import { ShmPageSizeMismatch, type ShmRefusal, ShmReplaced } from "../SharedHeaderErrors.ts"
import * as SharedHeaderFormat from "../SharedHeaderFormat.ts"
import { type HeaderPlace, unpublishedHeader } from "./headerPlace.ts"

/** @internal */
export interface HeaderPlatform {
  readonly memory: SharedMemory["Service"]
  readonly fileLock: FileLock["Service"]
  readonly liveness: ProcessLiveness["Service"]
  readonly vfs: Vfs["Service"]
}

/** @internal */
export interface HeaderFileOptions {
  readonly database: string
  readonly pageSize: PageSize
  /** Of a header that has to be made. */
  readonly slots: number
}

/** The byte of the lease file whose lock is the right to publish. Its contents take 56. */
const publisherRange = { start: 64, length: 1 }

/** How long somebody waits for a header that another process is about to make (RC-27), and how often it looks. */
const maxWaitNanos = 1_000_000_000n
const waitMillis = 5

interface Mapped {
  readonly region: SharedRegion
  readonly slots: number
}

/** What a new header goes on counting from. */
type Generations = Pick<SharedHeaderFormat.SharedHeaderContents, "publisherGeneration" | "writerGeneration">

const noGenerations: Generations = { publisherGeneration: 0, writerGeneration: 0 }

const generationsOf = (region: SharedRegion): Generations => {
  const { fromPublisherWord, fromWriterWord, offsets } = SharedHeaderFormat
  return {
    publisherGeneration: fromPublisherWord(region.load(offsets.publisherOwner)).generation,
    writerGeneration: fromWriterWord(region.load(offsets.writerOwner)).generation
  }
}

type Found =
  | { readonly kind: "nothing" }
  /** Somebody is still filling it; who, as far as it says. */
  | { readonly kind: "filling"; readonly pid: number; readonly birth: bigint; readonly refusal: ShmRefusal }
  | { readonly kind: "refused"; readonly refusal: ShmRefusal | SharedMemoryUnmappable }
  | { readonly kind: "good"; readonly mapped: Mapped }

/**
 * Opens the header of a database, or makes it. Its regions belong to the scope.
 *
 * @internal
 */
export const openHeaderFile = Effect.fnUntraced(function*(
  platform: HeaderPlatform,
  options: HeaderFileOptions
): Effect.fn.Return<HeaderPlace, OpenSharedHeaderError, Scope.Scope> {
  const { fileLock, liveness, memory, vfs } = platform
  const path = SharedHeaderFormat.sharedHeaderPath(options.database)
  const lockFile = leasePath(options.database)
  const clock = yield* Clock.Clock
  const layerScope = yield* Effect.scope
  /** One mapping at a time changes hands. */
  const exchange = Semaphore.makeUnsafe(1)

  const refusalOf = (bytes: Uint8Array) => {
    const decoded = SharedHeaderFormat.decode(bytes)
    return Result.isFailure(decoded) ? SharedHeaderFormat.toRefusal(path, decoded.failure) : decoded.success
  }

  const checkPageSize = (found: PageSize) =>
    found === options.pageSize
      ? Effect.void
      : new ShmPageSizeMismatch({ path, found, expected: options.pageSize })

  /** Maps what has the name, and checks it where it is mapped. */
  const map = Effect.gen(function*() {
    const scope = yield* Scope.fork(layerScope)
    const found = yield* Effect.gen(function*(): Effect.fn.Return<
      Found,
      Effect.Error<ReturnType<typeof memory.open>> | ShmPageSizeMismatch
    > {
      const region = yield* memory.open(path).pipe(Scope.provide(scope))
      if (region === undefined) return { kind: "nothing" }
      const contents = refusalOf(region.copy(0, Math.min(region.bytes, SharedHeaderFormat.sharedHeaderBytes)))
      if ("_tag" in contents) return { kind: "refused", refusal: contents }
      yield* checkPageSize(contents.pageSize)
      const shortage = SharedHeaderFormat.shortageOf(contents.slots, region.bytes)
      if (shortage !== undefined) return { kind: "refused", refusal: SharedHeaderFormat.toRefusal(path, shortage) }
      return { kind: "good", mapped: { region, slots: contents.slots } }
    }).pipe(
      Effect.catchTag("SharedMemoryUnmappable", (refusal) => Effect.succeed<Found>({ kind: "refused", refusal })),
      Effect.onError(() => Scope.close(scope, Exit.void))
    )
    if (found.kind !== "good") yield* Scope.close(scope, Exit.void)
    return found
  })

  /** What has the name now. Read first, and mapped only when it is a header. */
  const examine = Effect.gen(function*() {
    const bytes = yield* memory.peek(path, SharedHeaderFormat.sharedHeaderBytes)
    if (bytes === undefined) return { kind: "nothing" } satisfies Found
    const contents = refusalOf(bytes)
    if (!("_tag" in contents)) return yield* map
    if (!SharedHeaderFormat.isInitializing(bytes)) return { kind: "refused", refusal: contents } satisfies Found
    return { kind: "filling", refusal: contents, ...SharedHeaderFormat.publisherOf(bytes) } satisfies Found
  })

  const makeSideDirectory = Effect.gen(function*() {
    const directory = sideDirectory(options.database)
    if ((yield* vfs.identify(directory)) !== undefined) return
    yield* vfs.makeDirectory(directory)
    yield* vfs.syncDirectory(directoryOf(options.database))
  })

  const lock = Effect.andThen(
    makeSideDirectory,
    fileLock.acquire(lockFile, { range: publisherRange, mode: "exclusive", create: true })
  )

  const isLockHeld = fileLock.isHeld(lockFile, { range: publisherRange, mode: "exclusive" })

  /** What was left by those who were killed while they made a header (RC-25). Nobody else makes one now. */
  const sweep = Effect.gen(function*() {
    const directory = directoryOf(path)
    for (const name of yield* vfs.list(directory)) {
      if (isTemporaryName(name, nameOf(path))) yield* vfs.remove(`${directory}/${name}`)
    }
  }).pipe(Effect.catch((error) => Effect.logWarning(`cannot sweep beside ${path}: ${error.message}`)))

  /**
   * Makes the header. For the holder of the lock. The generations go on from those of the header before, as far as it is
   * known: a transaction id may be given once more, and then they tell who holds something and who held it there.
   */
  const make = Effect.fnUntraced(function*(generations: Generations, slots: number, reason: string) {
    const contents = {
      ...unpublishedHeader(SharedHeaderFormat.freshHeader({ pageSize: options.pageSize, slots })),
      ...generations
    }
    yield* sweep
    const region = yield* memory.create(path, {
      bytes: SharedHeaderFormat.mappedBytes(slots),
      content: SharedHeaderFormat.encode(contents)
    }).pipe(Scope.provide(layerScope))
    yield* Effect.logInfo(`made the shared-memory header ${path}: ${reason}`)
    return { region, slots } satisfies Mapped
  })

  const reasonOf = (found: Exclude<Found, { readonly kind: "good" }>): string =>
    found.kind === "nothing" ? "there was none" : `what was there was refused (${found.refusal.message})`

  /** Makes the header unless somebody was quicker; `undefined` while somebody else has the lock. */
  const makeIfFree = Effect.gen(function*() {
    yield* lock
    const found = yield* examine
    return found.kind === "good" ? found.mapped : yield* make(noGenerations, options.slots, reasonOf(found))
  }).pipe(
    Effect.scoped,
    Effect.uninterruptible,
    Effect.catchTag("RangeLocked", () => Effect.undefined)
  )

  const isCreatorAlive = (creator: { readonly pid: number; readonly birth: bigint }) =>
    creator.pid === 0 ? isLockHeld : liveness.isAlive(creator)

  const openOrMake = Effect.gen(function*() {
    const deadline = clock.monotonicTimeNanosUnsafe() + maxWaitNanos
    while (true) {
      const found = yield* examine
      if (found.kind === "good") return found.mapped
      const isOver = clock.monotonicTimeNanosUnsafe() >= deadline
      if (isOver || found.kind !== "filling" || !(yield* isCreatorAlive(found))) {
        const made = yield* makeIfFree
        if (made !== undefined) return made
        if (isOver) {
          return yield* found.kind === "refused" ? Effect.fail(found.refusal) : new Busy({
            reason: `another process is about to make the shared-memory header ${path}`,
            retryAfterMillis: 100
          })
        }
      }
      yield* Effect.sleep(waitMillis)
    }
  })

  let current = yield* openOrMake

  const busy = () => {
    const { pid } = SharedHeaderFormat.fromPublisherWord(current.region.load(SharedHeaderFormat.offsets.publisherOwner))
    const who = pid === 0 ? "another process" : `process ${pid}`
    return new Busy({ reason: `${who} publishes the commits of ${options.database}`, retryAfterMillis: 100 })
  }

  /** Who only makes the header holds the lock for some milliseconds and names itself nowhere. */
  const lockSoon = Effect.gen(function*() {
    const deadline = clock.monotonicTimeNanosUnsafe() + maxWaitNanos
    while (true) {
      const isMine = yield* lock.pipe(
        Effect.as(true),
        Effect.catchTag("RangeLocked", () => Effect.succeed(false))
      )
      if (isMine) return
      const owner = SharedHeaderFormat.offsets.publisherOwner
      const isNamed = SharedHeaderFormat.fromPublisherWord(current.region.load(owner)).pid !== 0
      if (isNamed || clock.monotonicTimeNanosUnsafe() >= deadline) return yield* busy()
      yield* Effect.sleep(waitMillis)
    }
  })

  /** Takes what has the name, or makes it anew when that fails a check. For the holder of the lock (RC-18). */
  const ensure = Effect.gen(function*() {
    if ((yield* memory.identify(path)) === current.region.identity) {
      const contents = refusalOf(current.region.copy(0, SharedHeaderFormat.sharedHeaderBytes))
      if (!("_tag" in contents)) return
    }
    const found = yield* examine
    current = found.kind === "good" ? found.mapped : yield* make(
      generationsOf(current.region),
      // As before, unless that was another program's header with more of them than are made here.
      Math.min(current.slots, SharedHeaderFormat.maxSlots),
      reasonOf(found)
    )
  })

  return {
    path,
    region: () => current.region,
    slots: () => current.slots,
    own: Effect.andThen(lockSoon, exchange.withPermit(ensure)),
    isLocked: true,
    // For a message: what cannot be asked is taken for alive, and the one who asks tries again.
    isPublisherAlive: Effect.orElseSucceed(isLockHeld, () => true),
    refresh: (isPublishing) =>
      Effect.gen(function*() {
        const identity = yield* memory.identify(path)
        if (identity === current.region.identity) return false
        if (isPublishing()) return yield* new ShmReplaced({ path })
        const found = yield* examine
        if (found.kind === "nothing") return false
        if (found.kind !== "good") return yield* Effect.fail(found.refusal)
        current = found.mapped
        return true
      }).pipe((effect) => exchange.withPermit(effect))
  }
})
