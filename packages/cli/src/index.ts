/**
 * The program `tidemark` as an effect, for whoever starts it from another program.
 *
 * @since 0.1.0
 */
export { run } from "./cli.ts"
export { ExitCode } from "./ExitCode.ts"
