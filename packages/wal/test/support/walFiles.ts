/**
 * Databases and WAL files as bytes, made by the encoders of this package.
 */
import { CommitSeq, PageSize } from "@tidemark/core/Scalars"
import { MemoryDisk } from "@tidemark/platform/MemoryDisk"
import * as MemoryVfs from "@tidemark/platform/MemoryVfs"
import { Vfs } from "@tidemark/platform/Vfs"
import { Effect } from "effect"
import { emptyDatabasePage1 } from "../../src/DatabaseHeaderFormat.ts"
import {
  chainFromHeader,
  type ChecksumWords,
  encodeHeader,
  frameBytes,
  frameOffset,
  walHeaderBytes,
  writeFrame
} from "../../src/SqliteWalFormat.ts"
import { type DatabaseExamination, examineDatabase } from "../../src/StartUp.ts"
import * as WalBaseFormat from "../../src/WalBaseFormat.ts"

export const pageSize = PageSize.make(512)

/** Salts of the generation that the test WALs belong to. */
export const salts = { salt1: 0x1000_0001, salt2: 0xdead_beef } as const

export interface WalOptions {
  readonly pageSize?: PageSize
  readonly words?: ChecksumWords
  readonly salt1?: number
  readonly salt2?: number
}

/** A commit: the pages that it writes, and the size of the database after it (0: an uncommitted run of frames). */
export interface WalCommit {
  readonly pages: ReadonlyArray<number>
  readonly databasePages: number
}

/** The image of a page: different for each frame. */
export const pageImage = (bytes: number, seed: number): Uint8Array =>
  Uint8Array.from({ length: bytes }, (_, index) => (seed * 31 + index * 7 + (index >> 8)) & 0xff)

export const buildWal = (commits: ReadonlyArray<WalCommit>, options: WalOptions = {}): Uint8Array => {
  const size = options.pageSize ?? pageSize
  const words = options.words ?? "littleEndian"
  const generation = { salt1: options.salt1 ?? salts.salt1, salt2: options.salt2 ?? salts.salt2, words }
  const frames = commits.reduce((sum, { pages }) => sum + pages.length, 0)
  const bytes = new Uint8Array(frameOffset(frames, size))
  const view = new DataView(bytes.buffer)
  bytes.set(encodeHeader({ checksumWords: words, pageSize: size, checkpointSeq: 3, ...generation }))
  const chain = chainFromHeader(bytes.subarray(0, walHeaderBytes))
  let index = 0
  for (const { databasePages, pages } of commits) {
    pages.forEach((pageNumber, position) => {
      writeFrame(
        bytes,
        view,
        frameOffset(index, size),
        {
          pageNumber,
          databasePages: position === pages.length - 1 ? databasePages : 0,
          page: pageImage(size, index + 1)
        },
        generation,
        chain
      )
      index++
    })
  }
  return bytes
}

/** Two transactions of three frames. */
export const twoOfThree: ReadonlyArray<WalCommit> = [
  { pages: [1, 2, 3], databasePages: 3 },
  { pages: [2, 3, 4], databasePages: 4 }
]

export const slotBytes = frameBytes(pageSize)

/** A database file of so many pages in WAL mode. */
export const buildDatabase = (pages: number, size: PageSize = pageSize): Uint8Array => {
  const bytes = new Uint8Array(size * pages)
  bytes.set(emptyDatabasePage1(size))
  new DataView(bytes.buffer).setUint32(28, pages)
  return bytes
}

export const buildWalBase = (
  base: bigint,
  options: Partial<Omit<WalBaseFormat.WalBase, "baseCommitSeq">> = {}
): Uint8Array =>
  WalBaseFormat.encode({
    sealed: false,
    previousSalt1: salts.salt1 - 1,
    previousSalt2: 77,
    ...salts,
    ...options,
    baseCommitSeq: CommitSeq.make(base)
  })

export const concat = (...parts: ReadonlyArray<Uint8Array>): Uint8Array => {
  const bytes = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0))
  let offset = 0
  for (const part of parts) {
    bytes.set(part, offset)
    offset += part.length
  }
  return bytes
}

export const flipped = (bytes: Uint8Array, offset: number, mask = 0x01): Uint8Array => {
  const copy = bytes.slice()
  copy[offset] = (copy[offset] ?? 0) ^ mask
  return copy
}

/** Hex digits that are set apart by field. */
export const unspaced = (hex: string): string => hex.replaceAll(" ", "")

/** The paths of a database on the memory disk. */
export const path = "/data/app.db"
export const files = {
  database: path,
  wal: `${path}-wal`,
  walBase: `${path}.fsqlite/wal-base`,
  journal: `${path}-journal`
} as const

/**
 * Examines what these files are; afterwards every file must hold what it held before, and there must be no new one.
 */
export const examine = (
  contents: Readonly<Record<string, Uint8Array>>,
  options?: { readonly acceptLoss?: boolean }
): Effect.Effect<DatabaseExamination> => {
  const disk = MemoryDisk.make({ async: false })
  disk.writeFile("/data/neighbour", new Uint8Array(1))
  for (const [file, bytes] of Object.entries(contents)) disk.writeFile(file, bytes)
  const trace = disk.record()
  return Effect.gen(function*() {
    const found = yield* examineDatabase(yield* Vfs, path, options)
    if (trace.steps.length > 0) return yield* Effect.die(new Error("an examination has changed the disk"))
    return found
  }).pipe(Effect.provide(MemoryVfs.layerDisk(disk)), Effect.orDie)
}
