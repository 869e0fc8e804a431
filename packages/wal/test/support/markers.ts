/**
 * Marker streams as bytes, written out from the format's description by an encoder of the tests' own.
 */
import { CommitSeq, type ObjectId, toObjectId } from "@tidemark/core/Scalars"
import { blake3, xxh3 } from "@tidemark/platform/Checksum"
import { MemoryDisk } from "@tidemark/platform/MemoryDisk"
import * as MemoryVfs from "@tidemark/platform/MemoryVfs"
import { Vfs } from "@tidemark/platform/Vfs"
import type { VfsError } from "@tidemark/platform/VfsError"
import { Effect, type Scope } from "effect"
import { openMarkerFiles } from "../../src/internal/markerFiles.ts"
import { scanStream } from "../../src/internal/markerScan.ts"
import type { Marker } from "../../src/MarkerFormat.ts"
import type { MarkerFiles, MarkerScan } from "../../src/MarkerStore.ts"
import { concat } from "./walFiles.ts"

export const database = "/data/app.db"
export const directory = `${database}.fsqlite/markers`
export const segmentFile = (id: number | bigint) => `${directory}/segment-${id.toString().padStart(6, "0")}.log`

/** Records of a segment in these tests. */
export const perSegment = 10
export const headerBytes = 36
export const recordBytes = 88

export const seqOf = (value: number | bigint): CommitSeq => CommitSeq.make(BigInt(value))
export const zeroId: ObjectId = toObjectId(new Uint8Array(16))
/** The id of a capsule: another one for each number. */
export const capsuleNumber = (number: number | bigint): ObjectId => {
  const bytes = new Uint8Array(16).fill(0xca)
  new DataView(bytes.buffer).setBigUint64(8, BigInt(number), true)
  return toObjectId(bytes)
}

const text = new TextEncoder()

export const headerOf = (id: number | bigint, start: number | bigint, size = recordBytes): Uint8Array => {
  const bytes = Buffer.alloc(headerBytes)
  bytes.write("FSMK", 0, "latin1")
  bytes.writeUInt32LE(1, 4)
  bytes.writeBigUInt64LE(BigInt(id), 8)
  bytes.writeBigUInt64LE(BigInt(start), 16)
  bytes.writeUInt32LE(size, 24)
  bytes.writeBigUInt64LE(xxh3(bytes.subarray(0, 28)), 28)
  return new Uint8Array(bytes)
}

/** Makes the checksum of a record fit again. */
export const resealed = (record: Uint8Array): Uint8Array => {
  const bytes = record.slice()
  new DataView(bytes.buffer).setBigUint64(80, xxh3(bytes.subarray(0, 80)), true)
  return bytes
}

export const recordOf = (marker: Omit<Marker, "id">): Uint8Array => {
  const bytes = new Uint8Array(recordBytes)
  const view = new DataView(bytes.buffer)
  view.setBigUint64(0, marker.seq, true)
  view.setBigUint64(8, marker.timeUnixNanos, true)
  bytes.set(marker.capsule, 16)
  bytes.set(marker.proof, 32)
  bytes.set(marker.previous, 48)
  bytes.set(blake3(concat(text.encode("fsqlite:marker:v1"), bytes.slice(0, 64))).subarray(0, 16), 64)
  return resealed(bytes)
}

export const idIn = (record: Uint8Array): ObjectId => toObjectId(record.slice(64, 80))

export interface StreamPart {
  /** Where the part begins, with a genesis record: the start of a segment. */
  readonly start: number
  readonly commits: number
}

/** The time of a record, unless said otherwise. */
export const timeOf = (seq: CommitSeq): bigint => 1_000_000n + seq * 10n

/** Markers in a chain: parts that each begin with a genesis record. */
export const chainOf = (
  parts: ReadonlyArray<StreamPart>,
  time: (seq: CommitSeq) => bigint = timeOf
): ReadonlyArray<Marker> => {
  const markers: Array<Marker> = []
  for (const { commits, start } of parts) {
    for (let i = 0; i <= commits; i++) {
      const seq = seqOf(start + i)
      const previous = markers.at(-1)?.id ?? zeroId
      const fields = {
        seq,
        timeUnixNanos: time(seq),
        capsule: i === 0 ? zeroId : capsuleNumber(seq),
        proof: zeroId,
        previous
      }
      markers.push({ ...fields, id: idIn(recordOf(fields)) })
    }
  }
  return markers
}

/** The files that hold markers, by path. */
export const filesOf = (markers: ReadonlyArray<Marker>, per = perSegment): Map<string, Uint8Array> => {
  const files = new Map<string, Array<Uint8Array>>()
  for (const marker of markers) {
    const id = marker.seq / BigInt(per)
    const path = segmentFile(id)
    const records = files.get(path) ?? [headerOf(id, id * BigInt(per))]
    records.push(recordOf(marker))
    files.set(path, records)
  }
  return new Map(Array.from(files, ([path, parts]) => [path, concat(...parts)]))
}

export const diskOf = (files: Iterable<readonly [string, Uint8Array]> = []): MemoryDisk => {
  const disk = MemoryDisk.make({ async: false })
  disk.writeFile(database, new Uint8Array(512))
  for (const [path, bytes] of files) disk.writeFile(path, bytes)
  return disk
}

export const withVfs = <A, E>(disk: MemoryDisk, use: (vfs: Vfs["Service"]) => Effect.Effect<A, E, Scope.Scope>) =>
  Effect.scoped(Effect.flatMap(Vfs, use)).pipe(Effect.provide(MemoryVfs.layerDisk(disk)))

export const scan = (
  disk: MemoryDisk,
  from?: number | bigint,
  per = perSegment
): Effect.Effect<MarkerScan, VfsError> =>
  withVfs(
    disk,
    (vfs) => scanStream(vfs, database, { perSegment: per, from: from === undefined ? undefined : seqOf(from) })
  )

/** What counts, as the sequences of its markers. */
export const visited = (disk: MemoryDisk, from: number | bigint = 0, per = perSegment) =>
  withVfs(disk, (vfs) =>
    Effect.gen(function*() {
      const { visit } = yield* scanStream(vfs, database, { perSegment: per })
      const markers: Array<Marker> = []
      yield* visit(seqOf(from), (marker) => {
        markers.push(marker)
      })
      return markers
    }))

export const open = (
  vfs: Vfs["Service"],
  options: { readonly tip?: number | bigint; readonly from?: number | bigint; readonly per?: number } = {}
) =>
  Effect.gen(function*() {
    const from = options.from === undefined ? undefined : seqOf(options.from)
    const per = options.per ?? perSegment
    const found = yield* scanStream(vfs, database, { perSegment: per, from })
    return yield* openMarkerFiles(vfs, { database, scan: found, tip: seqOf(options.tip ?? 0), perSegment: per })
  })

/** Encodes the next markers into one buffer, as a batch. */
export const batchOf = (
  files: MarkerFiles,
  count: number
): { readonly bytes: Uint8Array; readonly markers: Array<Marker> } => {
  const bytes = new Uint8Array(count * recordBytes)
  const view = new DataView(bytes.buffer)
  const markers = Array.from(
    { length: count },
    (_, i) => files.encodeNext(capsuleNumber(files.next()), undefined, bytes, view, i * recordBytes)
  )
  return { bytes, markers }
}

/** Appends a batch, durably. */
export const append = (files: MarkerFiles, count: number) =>
  Effect.suspend(() => {
    const from = files.next()
    const { bytes, markers } = batchOf(files, count)
    return Effect.as(files.writeAndSync([bytes], from), markers)
  })

export const seqsOf = (markers: ReadonlyArray<Marker>): ReadonlyArray<number> => markers.map(({ seq }) => Number(seq))

export const upTo = (last: number, first = 0): ReadonlyArray<number> =>
  Array.from({ length: last - first + 1 }, (_, i) => first + i)
