/**
 * A `-wal` of SQLite's, frame by frame (section 2 of `formats.md`).
 *
 * @since 0.1.0
 */
import type { VfsError } from "@tidemark/platform/VfsError"
import {
  chainFromHeader,
  decodeHeader,
  frameBytes,
  frameChecks,
  frameHeaderBytes,
  frameOffset,
  readFrameHeader,
  type WalHeader,
  walHeaderBytes
} from "@tidemark/wal/SqliteWalFormat"
import { forEachChunk, scanWal, type WalScan } from "@tidemark/wal/WalScan"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import * as Stream from "effect/Stream"
import {
  type Fields,
  type InspectedRecord,
  type Inspection,
  type OpenedFile,
  type Problem,
  problemOf,
  type RecordRange
} from "./Inspection.ts"

/**
 * Looks at an open file as a WAL, on its own: whether a database fits to it is for `verify`.
 *
 * @category inspection
 * @since 0.1.0
 */
export const inspectSqliteWal = Effect.fnUntraced(function*(
  opened: OpenedFile
): Effect.fn.Return<Inspection, VfsError> {
  const { bytes, file } = opened
  const headerBytes = new Uint8Array(Math.min(walHeaderBytes, bytes))
  yield* file.read(headerBytes, 0)
  const decoded = decodeHeader(headerBytes)
  if (Result.isFailure(decoded)) {
    return {
      kind: "sqlite-wal",
      header: null,
      summary: { frames: 0, commits: 0, validBytes: 0, tornTailBytes: 0 },
      problems: [problemOf(decoded.failure)],
      records: undefined
    }
  }
  const header = decoded.success
  const scan = yield* scanWal(file, bytes, header, chainFromHeader(headerBytes))
  const writtenEnd = scan.validBytes + scan.tornTailBytes
  return {
    kind: "sqlite-wal",
    header: {
      checksumWords: header.checksumWords,
      pageSize: header.pageSize,
      checkpointSequence: header.checkpointSeq,
      salt1: header.salt1,
      salt2: header.salt2,
      checksum1: header.checksum1,
      checksum2: header.checksum2
    },
    summary: {
      frames: scan.validFrames,
      commits: scan.commits,
      pages: new Set(scan.framePages).size,
      databaseSizeInPages: scan.databasePages ?? null,
      validBytes: scan.validBytes,
      tornTailBytes: scan.tornTailBytes,
      // Zeros that the writer has filled ahead, and frames of generations before this one.
      unusedBytes: Math.max(0, bytes - writtenEnd)
    },
    problems: problemsOf(scan),
    records: {
      fieldNames: Object.keys(noFields),
      list: (range) =>
        Stream.unwrap(
          Effect.map(
            listFrames(opened, header, chainFromHeader(headerBytes), writtenEnd, range),
            (frames) => Stream.fromIterable(frames)
          )
        )
    }
  }
})

const problemsOf = ({ damage, tornTailBytes, validBytes }: WalScan): ReadonlyArray<Problem> => {
  if (damage !== undefined) {
    const what =
      `frame ${damage.frame} does not check and at least ${damage.lostCommits} commits stand behind it, to byte ${damage.lostEnd}`
    return [{ offset: damage.offset, what, severity: "corrupt" }]
  }
  if (tornTailBytes === 0) return []
  const what = `${tornTailBytes} bytes behind the last commit belong to no commit`
  return [{ offset: validBytes, what, severity: "tail" }]
}

/** Frames have to be checked from the first one on, whatever part of them is asked for: each continues the one before. */
const listFrames = Effect.fnUntraced(function*(
  { file }: OpenedFile,
  header: WalHeader,
  chain: ReturnType<typeof chainFromHeader>,
  writtenEnd: number,
  { from, to }: RecordRange
): Effect.fn.Return<ReadonlyArray<InspectedRecord>, VfsError> {
  const { pageSize } = header
  const slotBytes = frameBytes(pageSize)
  const records: Array<InspectedRecord> = []
  let index = 0
  let isChained = true
  yield* forEachChunk(file, writtenEnd, pageSize, (chunk) => {
    const view = new DataView(chunk.buffer, chunk.byteOffset, chunk.byteLength)
    for (let offset = 0; offset < chunk.length && index <= to; offset += slotBytes, index++) {
      const isWhole = offset + slotBytes <= chunk.length
      isChained &&= isWhole && frameChecks(view, offset, pageSize, header, chain)
      if (index < from) continue
      const hasHeader = offset + frameHeaderBytes <= chunk.length
      records.push({
        index,
        offset: frameOffset(index, pageSize),
        valid: isChained,
        fields: hasHeader ? fieldsOf(view, offset) : noFields
      })
    }
    return index <= to
  })
  return records
})

const fieldsOf = (view: DataView, offset: number): Fields => {
  const { checksum1, checksum2, databasePages, pageNumber, salt1, salt2 } = readFrameHeader(view, offset)
  return { pageNumber, databaseSizeInPages: databasePages, salt1, salt2, checksum1, checksum2 }
}

/** The file ends inside of the frame's header. */
const noFields: Fields = {
  pageNumber: null,
  databaseSizeInPages: null,
  salt1: null,
  salt2: null,
  checksum1: null,
  checksum2: null
}
