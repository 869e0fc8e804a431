/**
 * Where a transaction puts the pages that do not fit into memory (CO-11, section 8 of `formats.md`): raw page images
 * in slots of one page each, and nothing else. What lies where is known to the index in memory alone, which travels
 * with the commit request; recovery never looks into such a file.
 *
 * **Details**
 *
 * Invariants:
 *
 * 1. A page is handed out only when its bytes have the XXH3-64 that they had when they were written.
 * 2. A slot holds at most one live page: it is free before it is written, and freed only by `release`.
 * 3. The file is removed when its scope closes. One that a crash leaves behind is swept at the next open (RC-19).
 *
 * Nothing is synced: after a power loss nobody asks for these bytes.
 *
 * @since 0.1.0
 */
import { invariant } from "@tidemark/core/Invariant"
import { type PageNumber, type PageSize, TxnEpoch, TxnId, type TxnToken } from "@tidemark/core/Scalars"
import { xxh3 } from "@tidemark/platform/Checksum"
import type { Vfs, VfsFile } from "@tidemark/platform/Vfs"
import type { VfsError } from "@tidemark/platform/VfsError"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import { SpillCorrupt } from "./CoordinatorErrors.ts"

/**
 * Where a page lies in a spill file, and how it is recognised.
 *
 * @category models
 * @since 0.1.0
 */
export interface SpillEntry {
  readonly page: PageNumber
  /** Byte offset in the file. */
  readonly offset: number
  /** Bytes: the page size. */
  readonly length: number
  /** XXH3-64 of the page. */
  readonly checksum: bigint
}

/**
 * Reads pages of a spill file. Every page is checked against its entry; one that is too short, has another length than
 * the page size or another checksum is {@link SpillCorrupt}.
 *
 * @category models
 * @since 0.1.0
 */
export interface SpillReader {
  readonly path: string
  readonly pageSize: PageSize

  /** A page, in memory of its own. */
  readonly read: (entry: SpillEntry) => Effect.Effect<Uint8Array, SpillCorrupt | VfsError>

  /** Reads a page into `buffer`, which is exactly one page, now. Throws what `read` would fail with. */
  readonly readSync: (entry: SpillEntry, buffer: Uint8Array) => void

  /**
   * Reads many pages in the order of the file, {@link readBufferBytes} at a time, and hands each to `visit`. The bytes
   * are valid during that call only. Without `visit` it checks them.
   */
  readonly readAll: (
    entries: Iterable<SpillEntry>,
    visit?: (entry: SpillEntry, bytes: Uint8Array) => void
  ) => Effect.Effect<void, SpillCorrupt | VfsError>
}

/**
 * A spill file that is being filled.
 *
 * @category models
 * @since 0.1.0
 */
export interface SpillFile extends SpillReader {
  /** Bytes of the file: its slots, free ones included. */
  readonly bytes: number

  /**
   * Writes pages into free slots, lowest first, then at the end. The buffers must not change until it is done. After
   * an error the slots are free again, whatever they hold.
   */
  readonly write: (
    pages: ReadonlyArray<readonly [PageNumber, Uint8Array]>
  ) => Effect.Effect<ReadonlyArray<SpillEntry>, VfsError>

  /** Gives the slot of a page back. */
  readonly release: (entry: SpillEntry) => void
}

/**
 * Bytes that are read at once when many pages are read: 1 MiB.
 *
 * @category constants
 * @since 0.1.0
 */
export const readBufferBytes = 1024 * 1024

/** Buffers in one gather write: 1 MiB with pages of 4 KiB. */
const buffersPerWrite = 256

/**
 * The directory of the spill files of a database.
 *
 * @category paths
 * @since 0.1.0
 */
export const spillDirectory = (database: string): string => `${database}.fsqlite-tmp`

/**
 * The spill file of a transaction.
 *
 * @category paths
 * @since 0.1.0
 */
export const spillPath = (database: string, token: TxnToken): string =>
  `${spillDirectory(database)}/txn-${token.id}-${token.epoch}.spill`

const isTxnId = Schema.is(TxnId)
const isTxnEpoch = Schema.is(TxnEpoch)

/**
 * Whose spill file has this name; `undefined` when it is not the name of a spill file.
 *
 * @category paths
 * @since 0.1.0
 */
export const tokenOfName = (name: string): TxnToken | undefined => {
  const match = /^txn-([1-9][0-9]{0,18})-(0|[1-9][0-9]{0,9})\.spill$/.exec(name)
  if (match === null) return undefined
  const id = BigInt(match[1] ?? 0)
  const epoch = Number(match[2])
  return isTxnId(id) && isTxnEpoch(epoch) ? { id, epoch } : undefined
}

const makeReader = (file: VfsFile, pageSize: PageSize): SpillReader => {
  const { path } = file
  const corrupt = (entry: SpillEntry) => new SpillCorrupt({ path, page: entry.page, offset: entry.offset })
  const isIntact = (entry: SpillEntry, bytes: Uint8Array, length: number): boolean =>
    entry.length === pageSize && length === pageSize && xxh3(bytes) === entry.checksum

  /** The entries that lie one behind the other from `first` on, as many as the buffer takes: their end. */
  const runEnd = (sorted: ReadonlyArray<SpillEntry>, first: number): number => {
    const start = sorted[first]?.offset ?? 0
    const most = Math.max(1, Math.floor(readBufferBytes / pageSize))
    let end = first + 1
    while (end < sorted.length && end - first < most && sorted[end]?.offset === start + (end - first) * pageSize) end++
    return end
  }

  const readRun = (
    run: ReadonlyArray<SpillEntry>,
    buffer: Uint8Array,
    visit: ((entry: SpillEntry, bytes: Uint8Array) => void) | undefined
  ): Effect.Effect<void, SpillCorrupt | VfsError> =>
    Effect.flatMap(
      file.read(buffer.subarray(0, run.length * pageSize), run[0]?.offset ?? 0),
      (length) => {
        let start = 0
        for (const entry of run) {
          const bytes = buffer.subarray(start, start + pageSize)
          if (!isIntact(entry, bytes, Math.min(pageSize, length - start))) return Effect.fail(corrupt(entry))
          visit?.(entry, bytes)
          start += pageSize
        }
        return Effect.void
      }
    )

  return {
    path,
    pageSize,

    read: (entry) =>
      Effect.suspend(() => {
        const bytes = new Uint8Array(pageSize)
        return Effect.flatMap(
          file.read(bytes, entry.offset),
          (length) => isIntact(entry, bytes, length) ? Effect.succeed(bytes) : Effect.fail(corrupt(entry))
        )
      }),

    readSync(entry, buffer) {
      invariant(buffer.length === pageSize, "a page is read into a buffer of one page")
      if (!isIntact(entry, buffer, file.readSync(buffer, entry.offset))) throw corrupt(entry)
    },

    readAll: Effect.fnUntraced(function*(entries, visit) {
      const sorted = Array.from(entries).sort((a, b) => a.offset - b.offset)
      const buffer = new Uint8Array(Math.max(pageSize, Math.min(readBufferBytes, sorted.length * pageSize)))
      let first = 0
      while (first < sorted.length) {
        const end = runEnd(sorted, first)
        yield* readRun(sorted.slice(first, end), buffer, visit)
        first = end
      }
    })
  }
}

/**
 * Creates the spill file of a transaction, in its directory of mode 0o700, with mode 0o600. The file must not exist
 * (`EEXIST`: a transaction has one, and what a crash left behind has been swept). It is removed when the scope closes.
 *
 * @category constructors
 * @since 0.1.0
 */
export const create = Effect.fnUntraced(function*(
  vfs: Vfs["Service"],
  options: { readonly database: string; readonly token: TxnToken; readonly pageSize: PageSize }
): Effect.fn.Return<SpillFile, VfsError, Scope.Scope> {
  const path = spillPath(options.database, options.token)
  const { pageSize } = options
  yield* vfs.makeDirectory(spillDirectory(options.database), { mode: 0o700 })
  const file = yield* vfs.open(path, { access: "readWrite", create: "exclusive", mode: 0o600 })
  yield* Effect.addFinalizer(() =>
    // The commit has been answered; a file that cannot be removed is swept at the next open.
    Effect.catch(vfs.remove(path), (error) => Effect.logWarning(`a spill file is left behind: ${error.message}`))
  )

  let end = 0
  let free: Array<number> = []

  const takeSlots = (count: number): ReadonlyArray<number> => {
    free.sort((a, b) => a - b)
    const slots = free.slice(0, count)
    free = free.slice(count)
    while (slots.length < count) {
      slots.push(end)
      end += pageSize
    }
    return slots
  }

  const writeSlots = Effect.fnUntraced(function*(entries: ReadonlyArray<SpillEntry>, buffers: Array<Uint8Array>) {
    let first = 0
    while (first < entries.length) {
      const start = entries[first]?.offset ?? 0
      let next = first + 1
      while (
        next < entries.length && next - first < buffersPerWrite
        && entries[next]?.offset === start + (next - first) * pageSize
      ) next++
      yield* file.write(buffers.slice(first, next), start)
      first = next
    }
  })

  return {
    ...makeReader(file, pageSize),
    get bytes() {
      return end
    },
    write: (pages) =>
      Effect.suspend(() => {
        const slots = takeSlots(pages.length)
        const entries = pages.map(([page, bytes], position): SpillEntry => {
          invariant(bytes.length === pageSize, "a page in a spill file is one page of bytes")
          return { page, offset: slots[position] ?? 0, length: pageSize, checksum: xxh3(bytes) }
        })
        return writeSlots(entries, pages.map(([, bytes]) => bytes)).pipe(
          Effect.as(entries),
          Effect.tapError(() => Effect.sync(() => free.push(...slots)))
        )
      }),
    release: (entry) => {
      free.push(entry.offset)
    }
  }
}, Effect.uninterruptible)

/**
 * Opens the spill file of a transaction of another process, for reading. It is not removed: that is its owner's part.
 *
 * @category constructors
 * @since 0.1.0
 */
export const open = (
  vfs: Vfs["Service"],
  options: { readonly database: string; readonly token: TxnToken; readonly pageSize: PageSize }
): Effect.Effect<SpillReader, VfsError, Scope.Scope> =>
  Effect.map(
    vfs.open(spillPath(options.database, options.token), { access: "read" }),
    (file) => makeReader(file, options.pageSize)
  )

/**
 * Removes the spill files that no live transaction owns (RC-19); answers their names. Only the holder of the
 * coordinator lease calls it. Other names in the directory are left alone.
 *
 * @category sweeping
 * @since 0.1.0
 */
export const sweep = Effect.fnUntraced(function*(
  vfs: Vfs["Service"],
  database: string,
  isLive: (token: TxnToken) => boolean
): Effect.fn.Return<ReadonlyArray<string>, VfsError> {
  const directory = spillDirectory(database)
  const names = yield* Effect.catchIf(vfs.list(directory), (error) => error.code === "ENOENT", () => Effect.succeed([]))
  const dead = names.filter((name) => {
    const token = tokenOfName(name)
    return token !== undefined && !isLive(token)
  })
  for (const name of dead) yield* vfs.remove(`${directory}/${name}`)
  if (dead.length > 0) yield* Effect.logInfo(`swept ${dead.length} spill files of ${database}`)
  return dead
})
