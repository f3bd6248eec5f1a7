/** A real server in a process of its own, and a network that fails. */

import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { type AddressInfo, createServer, type Server, Socket } from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

const ROOT = resolve(import.meta.dirname, "../../../..");
const PYTHON = process.env.OPTSERVE_TEST_PYTHON ?? join(ROOT, ".venv/bin/python");
const START_MS = 120_000;

/** Settings of a server by name, as in `data_dir`. */
export type Settings = Record<string, string | number>;

/** Runs a Python program at the root of the repository, and returns what it prints. */
export function python(...parameters: string[]): string {
  return execFileSync(PYTHON, parameters, { cwd: ROOT, encoding: "utf8" });
}

/** A server that listens on the loopback address; deleted with its files when it is disposed. */
export class TestServer implements AsyncDisposable {
  port = 0;
  #process: ChildProcess | undefined;

  private constructor(
    readonly folder: string,
    readonly settings: Settings,
  ) {}

  /** Starts a server on a free port. */
  static async start(settings: Settings = {}): Promise<TestServer> {
    const server = new TestServer(mkdtempSync(join(tmpdir(), "optserve-")), settings);
    await server.start();
    return server;
  }

  get address(): string {
    return `127.0.0.1:${this.port}`;
  }

  /** Starts the process; after `kill` again on its port. */
  async start(): Promise<void> {
    const portFile = join(this.folder, "port");
    rmSync(portFile, { force: true });
    const data = join(this.folder, "data");
    const settings = { backend: "numpy", metrics_port: "off", data_dir: data, ...this.settings };
    const flags = Object.entries({ ...settings, port: this.port, port_file: portFile }).map(
      ([name, value]) => `--${name.replaceAll("_", "-")}=${value}`,
    );
    const process = spawn(PYTHON, ["-m", "optserve_server", ...flags], {
      cwd: ROOT,
      stdio: ["ignore", "ignore", "inherit"],
      env: { ...globalThis.process.env, OPTSERVE_LOG_LEVEL: "error" },
    });
    this.#process = process;
    await until("the server listens", () => {
      if (process.exitCode !== null) throw new Error(`the server ended with status ${process.exitCode}`);
      return existsSync(portFile);
    });
    this.port = Number(readFileSync(portFile, "utf8"));
  }

  /** Kills the process, and waits for its end. */
  async kill(signal: NodeJS.Signals = "SIGKILL"): Promise<void> {
    const process = this.#process;
    if (process === undefined || process.exitCode !== null || process.signalCode !== null) return;
    const ended = new Promise((done) => process.once("exit", done));
    process.kill(signal);
    await ended;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill();
    rmSync(this.folder, { recursive: true });
  }
}

/** A network between client and server, of which a test holds back answers or cuts the connections. */
export class Network implements AsyncDisposable {
  readonly #listener: Server;
  readonly #pairs = new Set<[Socket, Socket]>();
  #holdsBack = false;

  private constructor(port: () => number) {
    this.#listener = createServer((client) => {
      const server = new Socket().connect(port(), "127.0.0.1");
      const pair: [Socket, Socket] = [client, server];
      this.#pairs.add(pair);
      client.pipe(server);
      if (!this.#holdsBack) server.pipe(client);
      for (const socket of pair) {
        socket.on("error", () => {});
        socket.on("close", () => this.#close(pair));
      }
    });
  }

  /** Makes a network to a server. */
  static async to(server: TestServer): Promise<Network> {
    const network = new Network(() => server.port);
    await new Promise<void>((done) => network.#listener.listen(0, "127.0.0.1", done));
    return network;
  }

  get address(): string {
    return `127.0.0.1:${(this.#listener.address() as AddressInfo).port}`;
  }

  /** Lets the client's bytes through, and holds the server's back. */
  holdBack(): void {
    this.#holdsBack = true;
    for (const [, server] of this.#pairs) server.unpipe();
  }

  /** Cuts all connections, with what they hold back; later ones work. */
  cut(): void {
    this.#holdsBack = false;
    for (const pair of this.#pairs) this.#close(pair);
  }

  #close(pair: [Socket, Socket]): void {
    this.#pairs.delete(pair);
    for (const socket of pair) socket.destroy();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.cut();
    await new Promise((done) => this.#listener.close(done));
  }
}

/** Waits for a condition, which is asked for again and again. */
export async function until(what: string, condition: () => boolean | Promise<boolean>): Promise<void> {
  const end = performance.now() + START_MS;
  while (!(await condition())) {
    if (performance.now() > end) throw new Error(`in vain: ${what}`);
    await sleep(20);
  }
}
