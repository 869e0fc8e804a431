/**
 * The version bytes in the header of the database file, which tell stock SQLite whether it may open it (`formats.md`
 * 2.2): 3 while the newest commits are in files that it does not know, 2 when they are not.
 */
import type { VfsFile } from "@tidemark/platform/Vfs"
import type { VfsError } from "@tidemark/platform/VfsError"
import * as Effect from "effect/Effect"
import { databaseHeaderBytes, hasMagic, setVersions } from "../DatabaseHeaderFormat.ts"

/** Writes and syncs the version bytes. @internal */
export const markDatabase = Effect.fnUntraced(function*(
  databaseFile: VfsFile,
  version: 2 | 3
): Effect.fn.Return<void, VfsError> {
  const header = new Uint8Array(databaseHeaderBytes)
  yield* databaseFile.read(header, 0)
  // Anything else is no database to SQLite anyhow.
  if (!hasMagic(header)) return
  setVersions(header, version)
  yield* databaseFile.writeAndSyncData([header], 0)
})
