/**
 * The writing side of a capsule store: files that are put, made durable, given up, and used again. `CapsuleStore` has the
 * promises.
 *
 * **Details**
 *
 * 1. One after another for each file: whoever puts, syncs, removes or recycles it has its turn.
 * 2. A file that was given up for another capsule gets that one's name before its first byte is written over, and only
 *    where nothing has that name: so a name that a marker needs never stands on bytes that are being changed. A power loss
 *    may leave the old name on some of the new bytes, or the new name on the old ones; no marker that counts names either.
 * 3. The files that are open at a time are bounded: those that wait for their sync by `maxKeptFiles`, those that are
 *    being put by a constant, those that are being synced by `syncConcurrency`.
 */
import type { ObjectId } from "@tidemark/core/Scalars"
import type { Vfs, VfsFile } from "@tidemark/platform/Vfs"
import type { VfsError } from "@tidemark/platform/VfsError"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Scope from "effect/Scope"
import * as Semaphore from "effect/Semaphore"
import { directoryOf, replaceFile } from "../AtomicFile.ts"
import { capsulePath, capsulesDirectory } from "../CapsuleFormat.ts"
import type { CapsuleStore } from "../CapsuleStore.ts"
import { sideDirectory } from "../WalBaseFormat.ts"
import { SpareFiles } from "./spareFiles.ts"

type Writing = Pick<CapsuleStore["Service"], "put" | "recycle" | "remove" | "removeSpares" | "sync">

/** `CapsuleStoreOptions`, with its defaults. @internal */
export interface CapsuleFilesOptions {
  readonly database: string
  readonly syncConcurrency: number
  readonly maxKeptFiles: number
  readonly maxSpareBytes: number
}

/** Files that are being put at the same time: enough that no thread of Node's pool, four by default, waits for the next. */
const maxConcurrentPuts = 16

/** A file between its `put` and its `sync`. */
interface KeptFile {
  readonly file: VfsFile
  readonly close: Effect.Effect<void>
}

/** Who uses an id just now, one after another. */
interface Turn {
  readonly semaphore: Semaphore.Semaphore
  users: number
}

const isOutOfDescriptors = (error: VfsError) => error.code === "EMFILE" || error.code === "ENFILE"

/** What it keeps open is closed with the scope. @internal */
export const makeCapsuleFiles = Effect.fnUntraced(function*(
  vfs: Vfs["Service"],
  { database, maxKeptFiles, maxSpareBytes, syncConcurrency }: CapsuleFilesOptions
): Effect.fn.Return<Writing, never, Scope.Scope> {
  const directory = capsulesDirectory(database)

  /** By path, in the order in which they were put. */
  const kept = new Map<string, KeptFile>()
  const spares = new SpareFiles(maxSpareBytes)
  /** Of the files that were put here, by path, until they are given up. What is another's is looked up. */
  const lengths = new Map<string, number>()
  const turns = new Map<string, Turn>()
  const putPermits = Semaphore.makeUnsafe(maxConcurrentPuts)
  let hasDirectory = false
  let hasDurableDirectory = false
  let isClosed = false
  let failure: VfsError | undefined

  const closeKept = Effect.suspend(() => {
    const closing = Array.from(kept.values(), ({ close }) => close)
    kept.clear()
    return Effect.all(closing, { discard: true })
  })

  yield* Effect.addFinalizer(() => {
    isClosed = true
    return closeKept
  })

  const takeKept = (path: string): KeptFile | undefined => {
    const found = kept.get(path)
    kept.delete(path)
    return found
  }

  /** Keeps a file for its sync, and closes the oldest, or the one put before under this name, in its place. */
  const keep = (path: string, opened: KeptFile): Effect.Effect<void> => {
    if (isClosed || maxKeptFiles === 0) return opened.close
    const [oldest] = kept.keys()
    const replaced = takeKept(path) ?? (kept.size < maxKeptFiles || oldest === undefined ? undefined : takeKept(oldest))
    kept.set(path, opened)
    return replaced?.close ?? Effect.void
  }

  /** Files are kept open for speed only: where descriptors are short they are given back. */
  const withDescriptors = <A>(effect: Effect.Effect<A, VfsError>) =>
    Effect.catchIf(
      effect,
      (error) => isOutOfDescriptors(error) && kept.size > 0,
      () => Effect.andThen(closeKept, effect)
    )

  const open = (path: string, how: Parameters<typeof vfs.open>[1]): Effect.Effect<KeptFile, VfsError> =>
    Effect.suspend(() => {
      const scope = Scope.makeUnsafe()
      return Effect.map(
        withDescriptors(Scope.provide(vfs.open(path, how), scope)),
        (file) => ({ file, close: Scope.close(scope, Exit.void) })
      )
    })

  /** One after another for each file: a `put` that fails must not remove what another has written meanwhile. */
  const inTurn = <A, E>(path: string, effect: Effect.Effect<A, E>): Effect.Effect<A, E> =>
    Effect.suspend(() => {
      const turn = turns.get(path) ?? { semaphore: Semaphore.makeUnsafe(1), users: 0 }
      turns.set(path, turn)
      turn.users++
      return Effect.ensuring(
        turn.semaphore.withPermit(effect),
        Effect.sync(() => {
          turn.users--
          if (turn.users === 0) turns.delete(path)
        })
      )
    })

  const makeDirectory = Effect.suspend(() =>
    hasDirectory ? Effect.void : Effect.map(vfs.makeDirectory(directory), () => {
      hasDirectory = true
    })
  )

  const removeFile = (path: string) =>
    Effect.catchIf(vfs.remove(path), (error) => error.code === "ENOENT", () => Effect.void)

  /**
   * Uses a spare in its turn, and only when it still is one then: so who puts or syncs the capsule that it once was has
   * it, or waits until its file is gone. `otherwise` also while somebody else has a turn: he may be putting it.
   */
  const takeSpare = <A, E>(spare: string, use: Effect.Effect<A, E>, otherwise: Effect.Effect<A>): Effect.Effect<A, E> =>
    turns.has(spare)
      ? otherwise
      : inTurn(spare, Effect.suspend((): Effect.Effect<A, E> => spares.forget(spare) ? use : otherwise))

  const removeSpares: Writing["removeSpares"] = Effect.suspend(() =>
    Effect.forEach(spares.all(), (spare) => takeSpare(spare, removeFile(spare), Effect.void), {
      concurrency: maxConcurrentPuts,
      discard: true
    })
  )

  const noSpare = Effect.succeed(false)

  /** Gives a spare of this length the name, where nothing has it. What goes wrong costs the spare only. */
  const renameSpare = (path: string, length: number): Effect.Effect<boolean> =>
    Effect.suspend(() => {
      const spare = spares.find(length)
      if (spare === undefined) return noSpare
      const rename = Effect.flatMap(vfs.identify(path), (found) => {
        if (found === undefined) return Effect.as(vfs.rename(spare, path), true)
        spares.add(spare, length)
        return noSpare
      })
      return takeSpare(
        spare,
        Effect.catch(rename, () => Effect.as(Effect.ignore(removeFile(spare)), false)),
        noSpare
      )
    })

  const writeNew = (path: string, bytes: Uint8Array, create: "never" | "exclusive") => {
    const opening = open(path, { access: "readWrite", create })
    const discard = Effect.ignore(removeFile(path))
    // A file that was renamed is there already, with what it held before.
    return Effect.flatMap(
      create === "never" ? Effect.onError(opening, () => discard) : opening,
      (opened) =>
        opened.file.write([bytes], 0).pipe(
          Effect.onError(() => Effect.andThen(opened.close, discard)),
          Effect.andThen(Effect.suspend(() => keep(path, opened)))
        )
    )
  }

  const writeAgain = Effect.fnUntraced(function*(path: string, bytes: Uint8Array) {
    const found = yield* open(path, { access: "readWrite", create: "ifMissing" })
    const fileBytes = yield* found.file.size.pipe(Effect.onError(() => found.close))
    if (fileBytes > bytes.length) {
      // No capsule of this id can be longer, so this is none, and writing over its beginning would not make it one.
      return yield* Effect.andThen(found.close, replaceFile(vfs, path, bytes))
    }
    yield* found.file.write([bytes], 0).pipe(Effect.onError(() => found.close))
    yield* keep(path, found)
  })

  const writeOnce = (path: string, bytes: Uint8Array): Effect.Effect<void, VfsError> =>
    Effect.suspend(() => {
      // A spare of this name is this capsule itself.
      spares.forget(path)
      return Effect.andThen(makeDirectory, renameSpare(path, bytes.length))
    }).pipe(
      Effect.flatMap((isRenamed) => writeNew(path, bytes, isRenamed ? "never" : "exclusive")),
      Effect.catchIf(
        ({ code, operation }) => operation === "open" && code === "EEXIST",
        () => writeAgain(path, bytes)
      )
    )

  /** What is kept for speed makes room for what is needed. */
  const write = (path: string, bytes: Uint8Array): Effect.Effect<void, VfsError> =>
    Effect.catchIf(
      writeOnce(path, bytes),
      ({ code }) => code === "ENOSPC" && !spares.isEmpty,
      () => Effect.andThen(removeSpares, writeOnce(path, bytes))
    )

  const put: Writing["put"] = ({ bytes, id }) => {
    const path = capsulePath(database, id)
    return inTurn(
      path,
      putPermits.withPermit(
        Effect.uninterruptible(
          Effect.suspend(() => failure === undefined ? write(path, bytes) : Effect.fail(failure)).pipe(
            Effect.tap(() => Effect.sync(() => lengths.set(path, bytes.length)))
          )
        )
      )
    )
  }

  /** What fails here leaves unknown what the disk has (4), unless it was only that nothing could be opened. */
  const finalFailure = (effect: Effect.Effect<void, VfsError>) =>
    Effect.tapError(effect, (error) =>
      Effect.sync(() => {
        if (!isOutOfDescriptors(error)) failure ??= error
      }))

  const unlessFailed = Effect.suspend(() => failure === undefined ? Effect.void : Effect.fail(failure))

  /** In its turn, and no spare any more: what is synced is needed, though nobody has put it again. */
  const syncFile = (id: ObjectId): Effect.Effect<void, VfsError> => {
    const path = capsulePath(database, id)
    return inTurn(
      path,
      Effect.uninterruptible(Effect.suspend(() => {
        if (failure !== undefined) return Effect.fail(failure)
        spares.forget(path)
        const found = takeKept(path)
        const opened = found === undefined
          ? open(path, { access: "read" })
          : Effect.succeed(found)
        return Effect.flatMap(opened, ({ close, file }) => Effect.ensuring(finalFailure(file.syncData), close))
      }))
    )
  }

  const syncFiles = (ids: ReadonlyArray<ObjectId>): Effect.Effect<void, VfsError> => {
    const rest = ids.values()
    // As many fibers as files are synced at a time, whatever the number of files.
    const syncRest = Effect.gen(function*() {
      for (const id of rest) yield* syncFile(id)
    })
    const workers = Math.min(syncConcurrency, ids.length)
    return workers === 1
      ? syncRest
      : Effect.all(Array.from({ length: workers }, () => syncRest), { concurrency: workers, discard: true })
  }

  const syncNames = Effect.gen(function*() {
    if (!hasDurableDirectory) {
      // Whoever made these directories may have been killed before their names were durable.
      yield* vfs.syncDirectory(directoryOf(database))
      yield* vfs.syncDirectory(sideDirectory(database))
      hasDurableDirectory = true
    }
    yield* vfs.syncDirectory(directory)
  })

  const sync: Writing["sync"] = (ids) =>
    Effect.gen(function*() {
      yield* unlessFailed
      if (ids.length === 0) return
      yield* syncFiles(ids)
      yield* unlessFailed
      yield* Effect.uninterruptible(withDescriptors(finalFailure(syncNames)))
      // The failure of a sync is told to one caller only. If it was another one, this sync may have succeeded without
      // what was lost.
      yield* unlessFailed
    })

  // A file that is open lives on without its name: the next sync has to notice that the name is gone.
  const closeKeptOf = (path: string): Effect.Effect<void> => takeKept(path)?.close ?? Effect.void

  const remove: Writing["remove"] = (id) => {
    const path = capsulePath(database, id)
    return inTurn(
      path,
      Effect.uninterruptible(Effect.suspend(() => {
        spares.forget(path)
        lengths.delete(path)
        return Effect.andThen(closeKeptOf(path), removeFile(path))
      }))
    )
  }

  const takeLength = (path: string): number | undefined => {
    const length = lengths.get(path)
    lengths.delete(path)
    return length
  }

  const recycle: Writing["recycle"] = (id, bytes) => {
    const path = capsulePath(database, id)
    // Who has put it may have said something else of it to the log: what is written over it must end where it ends.
    const length = Effect.suspend(() => {
      const known = takeLength(path)
      return known === undefined ? Effect.map(vfs.identify(path), (found) => found?.size) : Effect.succeed(known)
    })
    return inTurn(
      path,
      Effect.uninterruptible(
        Effect.suspend(() => closeKeptOf(path)).pipe(
          Effect.andThen(length),
          Effect.flatMap((found) =>
            // A store that is closed, or has failed, writes no other capsule.
            !isClosed && failure === undefined && found === bytes && spares.add(path, bytes)
              ? Effect.void
              : removeFile(path)
          )
        )
      )
    )
  }

  return { put, sync, remove, recycle, removeSpares }
})
