/** What the system knows of the files that this process has open. */
import * as NodeFs from "node:fs"
import * as NodePath from "node:path"

/** The open descriptors of a file, as the system names them. */
export const openDescriptorsOf = (path: string): ReadonlyArray<string> =>
  NodeFs.readdirSync("/proc/self/fd").filter((name) => {
    try {
      return NodeFs.readlinkSync(`/proc/self/fd/${name}`) === path
    } catch {
      // The descriptor with which the list itself was read.
      return false
    }
  })

/** Whether the disk of this directory lets a file be opened past its page cache. */
export const takesDirect = (parent: string): boolean => {
  const directory = NodeFs.mkdtempSync(NodePath.join(parent, "tidemark-direct-"))
  try {
    const { O_CREAT, O_DIRECT, O_RDWR } = NodeFs.constants
    NodeFs.closeSync(NodeFs.openSync(NodePath.join(directory, "file"), O_RDWR | O_CREAT | O_DIRECT, 0o600))
    return true
  } catch {
    return false
  } finally {
    NodeFs.rmSync(directory, { recursive: true })
  }
}
