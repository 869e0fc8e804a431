/**
 * A file system that is soon full. It needs the right to mount; where that is missing there is none.
 */
import { Effect } from "effect"
import { spawnSync } from "node:child_process"
import { mkdtempSync, rmdirSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"

const mount = (bytes: number): string | undefined => {
  const directory = mkdtempSync(join(tmpdir(), "tidemark-small-"))
  const { status } = spawnSync("mount", ["-t", "tmpfs", "-o", `size=${bytes}`, "tidemark-test", directory])
  if (status === 0) return directory
  rmdirSync(directory)
  return undefined
}

const unmount = (directory: string) => {
  spawnSync("umount", ["--lazy", directory])
  rmdirSync(directory)
}

/** Whether this process may mount: tests that need it are skipped, visibly, where it may not. */
export const canMount = (() => {
  const directory = mount(4096)
  if (directory === undefined) return false
  unmount(directory)
  return true
})()

/** A directory on a file system of so many bytes, for as long as the scope is open. */
export const smallFileSystem = (bytes: number) =>
  Effect.acquireRelease(
    Effect.sync(() => {
      const directory = mount(bytes)
      if (directory === undefined) throw new Error("a small file system cannot be mounted any more")
      return directory
    }),
    (directory) => Effect.sync(() => unmount(directory))
  )
