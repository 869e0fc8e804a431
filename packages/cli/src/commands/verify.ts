/**
 * `tidemark verify DB-or-DIR`: which start-up cases apply and what a start would drop. Reads only, takes no lock, makes
 * no file; so beside a process that is writing it may see a SQLite WAL in the middle of a commit, as a tail.
 *
 * @since 0.1.0
 */
import type { FileLock } from "@tidemark/platform/FileLock"
import * as NodeVfs from "@tidemark/platform/NodeVfs"
import { Vfs } from "@tidemark/platform/Vfs"
import type { VfsError } from "@tidemark/platform/VfsError"
import { examineDatabase } from "@tidemark/wal/StartUp"
import * as Command from "effect/cli/Command"
import * as Effect from "effect/Effect"
import { isDirectory } from "../appendLog/logDirectory.ts"
import { verifyLog } from "../appendLog/verifyLog.ts"
import type { DatabaseLog } from "../database.ts"
import { OperationFailed } from "../ExitCode.ts"
import { databaseOrLog, json } from "../flags.ts"
import { verifyNative } from "../native/verifyNative.ts"
import { verifyParallel } from "../parallel/verifyParallel.ts"
import { withProgress } from "../Progress.ts"
import { emit, type Report } from "../Report.ts"
import { logUnder } from "../startUp/logUnder.ts"
import { verificationReport } from "../startUp/startUpReports.ts"
import { byteSize, counted } from "../Style.ts"

const verifyEither = Effect.fnUntraced(function*(path: string, isLog: boolean, onRead: (bytes: number) => void) {
  return isLog ? yield* verifyLog(path, onRead) : yield* verify(path)
})

const verify = Effect.fnUntraced(function*(path: string) {
  return yield* verifiers[yield* logUnder(path)](path)
})

const verifySqlite = Effect.fnUntraced(function*(path: string) {
  const found = yield* examineDatabase(yield* Vfs, path)
  if (!found.databaseExists && found.walFileBytes === undefined) {
    return yield* new OperationFailed({ path, sentence: `there is no database at ${path}` })
  }
  const { commits, tornTailBytes, validFrames } = found
  return verificationReport("sqlite", found, {
    json: { frames: validFrames, commits },
    lines: [
      ["log", `${counted(validFrames, "frame")}, ${counted(commits, "commit")}`],
      ["to be dropped", byteSize(tornTailBytes)]
    ]
  })
})

const verifiers: Record<
  DatabaseLog,
  (path: string) => Effect.Effect<Report, VfsError | OperationFailed, Vfs | FileLock>
> = { sqlite: verifySqlite, parallel: verifyParallel, native: verifyNative }

/**
 * @category commands
 * @since 0.1.0
 */
export const verifyCommand = Command.make(
  "verify",
  { path: databaseOrLog, json },
  ({ json, path }) => {
    let bytesRead = 0
    return emit(
      { json },
      Effect.flatMap(
        isDirectory(path),
        (isLog) => verifyEither(path, isLog, (bytes) => bytesRead += bytes)
      ).pipe(
        Effect.provide(NodeVfs.layer),
        withProgress(() => `verifying ${path}: ${bytesRead === 0 ? "reading" : `${byteSize(bytesRead)} read`}`)
      )
    )
  }
).pipe(
  Command.withDescription(
    "Say which start-up cases apply to a database or an append log and what would be dropped. Reads only."
  )
)
