/**
 * A file system that is soon full. It needs the right to mount; where that is missing there is none.
 */
import { Effect } from "effect"
import { spawnSync } from "node:child_process"
import { mkdtempSync, rmdirSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"

/** A directory on a file system of so many bytes, for as long as the scope is open; `undefined` where nobody may mount. */
export const smallFileSystem = (bytes: number) =>
  Effect.acquireRelease(
    Effect.sync(() => {
      const directory = mkdtempSync(join(tmpdir(), "tidemark-small-"))
      const { status } = spawnSync("mount", ["-t", "tmpfs", "-o", `size=${bytes}`, "tidemark-test", directory])
      if (status === 0) return directory
      rmdirSync(directory)
      return undefined
    }),
    (directory) =>
      Effect.sync(() => {
        if (directory === undefined) return
        spawnSync("umount", ["--lazy", directory])
        rmdirSync(directory)
      })
  )
