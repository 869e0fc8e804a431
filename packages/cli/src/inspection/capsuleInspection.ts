/**
 * A commit capsule, page by page (section 6.1 of `formats.md`).
 *
 * @since 0.1.0
 */
import type { FormatIssue } from "@tidemark/core/BinaryFormat"
import { objectIdToHex } from "@tidemark/core/Scalars"
import type { VfsError } from "@tidemark/platform/VfsError"
import { isAnyTemporaryName, nameOf } from "@tidemark/wal/AtomicFile"
import {
  allocateCapsule,
  type Capsule,
  capsuleBytes,
  type CapsuleHeader,
  capsuleHeaderBytes,
  decode,
  decodeHeader,
  entries,
  idOfCapsuleName,
  lengthIssue
} from "@tidemark/wal/CapsuleFormat"
import * as Effect from "effect/Effect"
import * as Hex from "effect/encoding/Hex"
import * as Result from "effect/Result"
import * as Stream from "effect/Stream"
import type { OperationFailed } from "../ExitCode.ts"
import {
  type Fields,
  type InspectedRecord,
  type Inspection,
  type OpenedFile,
  type Problem,
  problemOf,
  type RecordRange
} from "./Inspection.ts"
import { readWhole } from "./wholeFile.ts"

/**
 * Looks at an open file as a capsule, on its own: whether a marker names it is for the database as a whole.
 *
 * @category inspection
 * @since 0.1.0
 */
export const inspectCapsule = Effect.fnUntraced(function*(
  opened: OpenedFile
): Effect.fn.Return<Inspection, OperationFailed | VfsError> {
  const headerBytes = new Uint8Array(Math.min(capsuleHeaderBytes, opened.bytes))
  const name = nameOf(opened.file.path)
  const decoded = decodeHeader(headerBytes.subarray(0, yield* opened.file.read(headerBytes, 0)))
  if (Result.isFailure(decoded)) {
    return {
      kind: "commit-capsule",
      header: null,
      summary: {},
      problems: [problemIn(name, decoded.failure)],
      records: undefined
    }
  }
  const header = decoded.success
  const expectedBytes = capsuleBytes(header.pageSize, header.pageCount)
  // What stands behind the capsule is not read: there may be any amount of it.
  const bytes = yield* readWhole({ ...opened, bytes: Math.min(opened.bytes, expectedBytes) }, allocateCapsule)
  // The same file: shorter when it ends too early, longer by what is behind it.
  const wrongLength = lengthIssue(header, Math.max(bytes.length, opened.bytes))
  const read = wrongLength === undefined ? decode(bytes, idOfCapsuleName(name)) : Result.fail(wrongLength)
  const capsule = Result.getOrUndefined(read)
  return {
    kind: "commit-capsule",
    header: {
      pageSize: header.pageSize,
      txnId: header.token.id,
      txnEpoch: header.token.epoch,
      pageCount: header.pageCount,
      beginSequence: header.beginSeq,
      databaseSizeInPages: header.databasePages
    },
    summary: summaryOf(header, capsule, expectedBytes),
    problems: Result.isFailure(read) ? [problemIn(name, read.failure)] : [],
    records: {
      fieldNames: Object.keys(noFields),
      list: (range) => Stream.suspend(() => Stream.fromIterable(listPages(bytes, header, capsule !== undefined, range)))
    }
  }
})

/**
 * A capsule gets its name before it is written, so that one which is written at this moment, or was when its process
 * died, ends too early. One that was cut off later looks the same; then a marker names it, which the database as a whole
 * shows.
 */
const problemIn = (name: string, issue: FormatIssue): Problem => {
  const problem = problemOf(issue)
  const isUnfinished = isAnyTemporaryName(name) || endsTooEarly.has(issue.code)
  return isUnfinished ? { ...problem, severity: "tail" } : problem
}

const endsTooEarly: ReadonlySet<string> = new Set(["TooShort", "Truncated"])

const summaryOf = (header: CapsuleHeader, capsule: Capsule | undefined, expectedBytes: number): Fields => ({
  objectId: capsule === undefined ? null : objectIdToHex(capsule.id),
  // BLAKE3-256 of the whole file, which a publish request carries.
  capsuleDigest: capsule === undefined ? null : Hex.encode(capsule.digest),
  lowestPage: capsule?.pages[0] ?? null,
  highestPage: capsule?.pages.at(-1) ?? null,
  imageBytes: header.pageCount * header.pageSize,
  expectedBytes,
  sizeAfterCommit: header.databasePages === 0
    ? "the larger of the size before and the highest page"
    : "chosen by the commit"
})

function* listPages(
  bytes: Uint8Array,
  header: CapsuleHeader,
  isWhole: boolean,
  { from, to }: RecordRange
): Generator<InspectedRecord, void> {
  const { pageSize } = header
  for (const { imageOffset, index, offset, page } of entries(bytes, header)) {
    if (index > to) return
    if (index < from) continue
    const fields: Fields = page === undefined
      ? noFields
      : {
        pageNumber: page,
        imageOffset,
        imageLength: Math.max(0, Math.min(pageSize, bytes.length - imageOffset))
      }
    yield { index, offset, valid: isWhole, fields }
  }
}

/** Of a row of the table that does not check. */
const noFields: Fields = { pageNumber: null, imageOffset: null, imageLength: null }
